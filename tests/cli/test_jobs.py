"""The job scripts: one for each step and one for all, run as a cluster runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import snapshot

from harness.cli.job import arguments
from harness.pipeline.steps import STEPS

JOBS = Path(__file__).parents[2] / "jobs"


def submit(script, *arguments, cwd):
    """Run a script from another folder, as `ray submit` does."""
    return subprocess.run(
        [sys.executable, str(JOBS / script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RAY_ADDRESS": ""},
    )


def test_a_script_for_every_step():
    names = {path.stem for path in JOBS.glob("*.py")}
    assert names == {step.name.replace("-", "_") for step in STEPS} | {"study", "benchmark"}
    for path in JOBS.glob("*.py"):
        assert f"ray submit cluster.yaml jobs/{path.name} --" in path.read_text()


def test_step_by_step_equals_the_study(tiny, tmp_path):
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(tiny))
    whole = submit("study.py", "--study", study, "--results", tmp_path / "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "32 cells made" in whole.stdout
    for step in STEPS[:2]:
        done = submit(
            f"{step.name.replace('-', '_')}.py", study, "--results", tmp_path / "steps", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    parts = snapshot(tmp_path / "steps")
    assert parts.items() <= snapshot(tmp_path / "whole").items()
    assert len(parts) == 5  # two bounds, names of classes, pictures, the base network


def test_a_failure_is_an_exit_code(tmp_path):
    failed = submit("study.py", "--study", "quik", "--results", tmp_path, cwd=tmp_path)
    assert failed.returncode == 2
    assert "did you mean 'quick'" in failed.stderr


CLUSTERS = [path.name for path in JOBS.parent.glob("cluster*.yaml")]


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_cluster_file_is_one_that_ray_accepts(name):
    """Ray's own validation, and the points on which a file of a local provider fails without a word."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((JOBS.parent / name).read_text())
    assert ("available_node_types" in config) == (config["provider"]["type"] != "local")
    prepared = prepare_config(config)
    validate_config(prepared)
    workers = [
        kind for name, kind in prepared["available_node_types"].items() if name != prepared["head_node_type"]
    ] or [prepared["available_node_types"][prepared["head_node_type"]]]
    assert sum(kind["min_workers"] for kind in workers) == prepared["max_workers"]


def test_the_cluster_files_install_the_same():
    configs = [yaml.safe_load((JOBS.parent / name).read_text()) for name in CLUSTERS]
    assert len(configs) == 3
    for name in (
        "file_mounts",
        "rsync_exclude",
        "initialization_commands",
        "setup_commands",
        "worker_start_ray_commands",
    ):
        assert all(config[name] == configs[0][name] for config in configs), name


@pytest.mark.parametrize(
    ("typed", "arrived"),
    [
        (["--study", "quick"], ["quick"]),
        (["--study=quick"], ["quick"]),
        (["--code", "/mine", "--study", "quick"], ["--code", "/mine", "quick"]),
        (
            ["--set", "defenses.imperceptible_bound.k=[1,", "2]", "quick"],
            ["--set", "defenses.imperceptible_bound.k=[1, 2]", "quick"],
        ),
        (
            ["quick", "--set=network={architecture:", "convnet,", "width:", "4}"],
            ["quick", "--set=network={architecture: convnet, width: 4}"],
        ),
        (
            ["--set", "defenses.imperceptible_bound.k=[1, 2]", "--set", "a=[[1,", "2],", "[3]]", "x"],
            ["--set", "defenses.imperceptible_bound.k=[1, 2]", "--set", "a=[[1, 2], [3]]", "x"],
        ),
        (["--results", "[a", "b"], ["--results", "[a", "b"]),
        (["--set", "a=[1", "quick"], ["--set", "a=[1 quick"]),
        (["--set"], ["--set"]),
    ],
)
def test_arguments_survive_the_way_through_two_shells(typed, arrived):
    assert arguments(typed) == arrived
