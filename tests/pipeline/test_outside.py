"""A study whose network, attack and defense come from outside the package, all steps of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import run_study, snapshot, tiny_study
from outside import ATTACK, DEFENSE, NETWORK, outside_of

import harness
from harness.report.database import connect, query


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def finished(folder):
    """The study as plain data, its finished run, and the folder of its code."""
    with outside_of(folder) as outside:
        package = outside.package(nets=NETWORK, attacks=ATTACK, defenses=DEFENSE)
        data = tiny_study() | {
            "network": {"use": f"{package}.nets:linear", "settings": {"width": 6}},
            "attacks": {
                "fgsm": {"epsilon": [0.1]},
                "mine": {"use": f"{package}.attacks:noise", "settings": {"epsilon": [0.1, "8/255"]}},
            },
            "defenses": {
                "smooth": {
                    "use": f"{package}.defenses:smooth",
                    "settings": {"epsilon": 0.1, "copies": [1, 2]},
                    "epochs": 1,
                },
                "trades": {"epsilon": 0.1, "steps": 2, "epochs": 1},
            },
            "controls": False,
            "white_box": {"epsilon": [0.1], "step_divisors": [4], "steps": 3, "attacks": ["mine"]},
        }
        yield data, run_study(data, folder / "results"), package


def test_it_runs_through_all_steps(finished):
    _, run, package = finished
    assert run.failed == {} and run.plan.code.keys() == {package}
    assert {network.name for network in run.plan.networks} == {
        "base", "smooth epsilon=0.1 copies=1", "smooth epsilon=0.1 copies=2", "trades epsilon=0.1 beta=6"
    }  # fmt: skip


def test_its_code_is_in_the_keys_of_what_is_made_with_it(finished):
    _, run, package = finished
    with_code = {cell.title for cell in run.plan.cells() if cell.spec.get("code")}
    others = {cell.title for cell in run.plan.cells()} - with_code
    assert others == {cell.title for cell in run.plan.of_images}
    (digest,) = {cell.spec["code"][package] for cell in run.plan.cells() if cell.spec.get("code")}
    assert digest == run.plan.code[package]


def test_tables_show_all_of_it_without_its_code(finished):
    """Every network on every set of images and in the white box, by SQL alone."""
    _, run, package = finished
    with connect(run.store) as connection:
        black_box = query(connection, "select distinct name, attack_method from black_box").to_pylist()
        white_box = query(
            connection, "select name, attack, norm, epsilon, accuracy from white_box where attack = 'mine'"
        ).to_pylist()
        timing = query(
            connection, "select name, access, attack_s from timing where attack = 'mine'"
        ).to_pylist()
    names = {network.name for network in run.plan.networks}
    assert {row["name"] for row in black_box} == names == {row["name"] for row in white_box}
    assert {row["attack_method"] for row in black_box} == {"none", "fgsm", f"{package}.attacks.noise"}
    assert {(row["norm"], row["epsilon"]) for row in white_box} == {("linf", 0.1), ("linf", 8 / 255)}
    assert {row["name"] for row in timing if row["access"] == "white_box"} == names
    assert {row["name"] for row in timing if row["access"] == "black_box"} == {"base"}
    assert len(timing) == (4 + 1) * 2 and min(row["attack_s"] for row in timing) > 0


@pytest.mark.ray
def test_workers_of_ray_find_the_code_and_change_no_number(finished, folder, tmp_path):
    """A command with --code and two workers, against this process alone."""
    data, run, _ = finished
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**data, "compute": {"workers": 2}}))
    command = [sys.executable, "-m", "harness.cli", "run", "study.yaml", "--code", str(folder)]
    path = os.pathsep.join([str(Path(harness.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--results", "results"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path / "results") == snapshot(run.store.root)
    weights = [run.store.tensors(cell) for cell in (network.cell for network in run.plan.networks)]
    assert all(np.isfinite(value).all() for tensors in weights for value in tensors.values())
