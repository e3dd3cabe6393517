"""What machines must have in common, without any: an account of this one, and what is said of others."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness import extensions
from harness.cluster import connection, nodes
from harness.cluster.shipping import Package
from harness.errors import HarnessError
from harness.results.store import Store
from harness.study.compute import ComputeSpec


def test_here(tmp_path):
    store = Store(tmp_path).open()
    with store.probe() as probe:
        mine = nodes.here(store, probe, ())
    assert mine.sees_results
    assert {"Python", "schema", "harness", "torch", "faiss", "harness's source"} <= mine.versions.keys()
    assert mine == nodes.Node(mine.versions, nodes.interfaces(), True)
    assert [path.name for path in tmp_path.iterdir()] == ["harness.json"]


def test_the_source_is_that_of_the_whole_harness(tmp_path, monkeypatch):
    """A changed checkout is told whichever wing the change is in."""
    whole = Path(harness.__file__).parent
    assert whole == nodes._PACKAGE
    copy = shutil.copytree(whole, tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    here = nodes._source()
    monkeypatch.setattr(nodes, "_PACKAGE", copy)
    assert nodes._source() == here
    with (copy / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert nodes._source() != here


def test_another_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "_PATIENCE_S", 0)
    with Store(tmp_path).open().probe() as probe:
        assert not nodes.here(Store(tmp_path / "elsewhere"), probe, ()).sees_results


DRIVER = nodes.Node({"Python": "3.11", "torch": "2.15.0"}, ("lo", "eth0"), True)


def test_machines_alike():
    assert (
        nodes.problems(DRIVER, {"one": DRIVER, "two": replace(DRIVER, interfaces=("lo",))}, "/results", None)
        == []
    )


def test_every_difference_is_told():
    others = {
        "old": replace(DRIVER, versions={"Python": "3.12", "torch": "2.15.0", "numpy": "2.4.6"}),
        "apart": replace(DRIVER, sees_results=False, interfaces=("lo", "ens3")),
        "empty": "Traceback ...\nModuleNotFoundError: No module named 'harness'\n",
        "silent": "no answer within 120 s",
    }
    assert nodes.problems(DRIVER, others, "/results", "eth0") == [
        "old: Python 3.12, but 3.11 where the study was started",
        "old: numpy 2.4.6, but none where the study was started",
        "apart: the results in '/results' are not there: name storage that all machines share with --results",
        "apart: no network interface 'eth0' (compute.interface), only lo, ens3",
        "empty: Python there has no 'harness': "
        "install the harness there, as cluster.yaml's setup_commands do",
        "silent: no answer within 120 s",
    ]


def test_packages_from_outside_that_differ():
    """By their code alone: they may lie anywhere."""
    driver = replace(
        DRIVER, code={"mine": Package("a" * 16, "/code/mine"), "theirs": Package("b" * 16, "/x")}
    )
    same = replace(driver, code={**driver.code, "mine": Package("a" * 16, "/elsewhere/mine")})
    others = {
        "same": same,
        "old": replace(driver, code={**driver.code, "mine": Package("c" * 16, "/old/mine/__init__.py")}),
        "without": replace(driver, code={"mine": driver.code["mine"]}),
    }
    assert nodes.problems(driver, others, "/results", None) == [
        f"old: the code of 'mine' is {'c' * 16} (/old/mine/__init__.py), "
        f"but {'a' * 16} where the study was started",
        "without: its workers find no package 'theirs': install it there, or give its folder with --code "
        "before Ray is started",
    ]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder for --code with a package, one of equal files, and a module."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(extensions.code, "_folders", [])
    for name in ("mine", "twin"):
        (tmp_path / name / "nets").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("VALUE = 1")
        (tmp_path / name / "nets/deep.py").write_text("from .. import VALUE as AGAIN")
    (tmp_path / "mine/.gitignore").write_text("deep.py")
    (tmp_path / "single.py").write_text("VALUE = 1")
    return tmp_path


def test_what_is_found_here(code):
    assert nodes.shipping.packages(["mine"]) == {}
    extensions.code_folder([code])
    packages = nodes.shipping.packages(["mine", "single", "nobody"])
    assert packages == {
        "mine": Package(extensions.digest("mine"), str(code / "mine")),
        "single": Package(extensions.digest("single"), str(code / "single.py")),
    }
    assert "mine" not in sys.modules


@pytest.mark.ray
def test_a_ray_that_was_there_does_not_find_them(ray_session, code):
    """It is not sent them, and that is told before work."""
    extensions.code_folder([code])
    planned = {"mine": extensions.digest("mine")}
    with connection.connect(ComputeSpec(workers=1), planned) as cluster:
        with pytest.raises(HarnessError, match="its workers find no package 'mine': install it there, or"):
            nodes.check_nodes(cluster, Store(code / "results").open(), planned)
        (code / "mine/__init__.py").write_text("VALUE = 2")
        with pytest.raises(extensions.Moved, match="mine"):
            nodes.check_nodes(cluster, Store(code / "results").open(), planned)


ROUNDS = """
import importlib, json, sys
from pathlib import Path
from harness import extensions
from harness.cluster.connection import connect
from harness.cluster.nodes import check_nodes
from harness.results.store import Store
from harness.study.compute import ComputeSpec

folder, names = Path(sys.argv[1]), ["mine", "twin", "single"]

def value(state, name):
    return importlib.import_module(name).VALUE

def deep(state, name):
    return importlib.import_module(f"{name}.nets.deep").AGAIN

def main():
    extensions.code_folder([folder])
    store, seen = Store(folder / "results").open(), []
    for number in range(1, 1 + int(sys.argv[2])):
        for path in ("mine/__init__.py", "single.py"):
            (folder / path).write_text(f"VALUE = {number}")
        planned = {name: extensions.digest(name) for name in names}
        with connect(ComputeSpec(workers=1), planned) as cluster:
            check_nodes(cluster, store, planned)
            seen.append(dict(cluster.map(list, ((),), value, names)))
            seen[-1] |= {"deep": dict(cluster.map(list, ((),), deep, ["mine"]))}
    print(json.dumps(seen))
main()
"""


@pytest.mark.ray
@pytest.mark.parametrize("rounds", [1, 2])
def test_workers_find_them_as_they_are_now(ray_session, code, rounds):
    """In a Ray started for the study, and in one that lives on from study to study; without a word."""
    import ray

    address = ray.get_runtime_context().gcs_address if rounds > 1 else ""
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS, str(code), str(rounds)],
        env={**os.environ, "RAY_ADDRESS": address},
        cwd=Path(harness.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = [{"0": n, "1": 1, "2": n, "deep": {"0": n}} for n in range(1, 1 + rounds)]
    assert json.loads(done.stdout) == expected
    assert done.stderr == ""


def test_a_package_that_ray_does_not_take(code, monkeypatch):
    """Ray's reason, without its advice on calls that the user never makes; nothing is left behind."""
    import ray

    def refuse(runtime_env, **options):
        sent = runtime_env["py_modules"]
        assert [Path(place).name for place in sent] == ["mine"] and Path(sent[0], "nets/deep.py").is_file()
        reached.append(Path(sent[0]))
        large = ValueError("Package size (600.00MiB) exceeds the maximum size of 500.00MiB. To exclude ...")
        raise ray.exceptions.RuntimeEnvSetupError("Failed") from large

    reached = []
    extensions.code_folder([code])
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: reached.append("shutdown"))
    monkeypatch.setattr(connection, "_answers", lambda address: True)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.raises(HarnessError, match=r"workers: Package size .* 500.00MiB. A .rayignore in its folder"):
        with connection.connect(ComputeSpec(workers=1), ["mine"]):
            pass
    assert reached[1:] == ["shutdown"] and not reached[0].exists()


def test_the_interface_of_an_address():
    assert nodes.interface_of("127.0.0.1") == "lo"
    assert nodes.interface_of("192.0.2.1") is None
