"""What machines must have in common, without any: an account of this one, and what is said of others."""

import shutil
from dataclasses import replace
from pathlib import Path

import harness
from harness.cluster import nodes
from harness.results.store import Store


def test_here(tmp_path):
    store = Store(tmp_path).open()
    with store.probe() as probe:
        mine = nodes.here(store, probe)
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
        assert not nodes.here(Store(tmp_path / "elsewhere"), probe).sees_results


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


def test_the_interface_of_an_address():
    assert nodes.interface_of("127.0.0.1") == "lo"
    assert nodes.interface_of("192.0.2.1") is None
