"""The job scripts: one for each step and one for all, run as a cluster runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import snapshot

from harness import STEPS

JOBS = Path(__file__).parent.parent / "jobs"


def submit(script, *arguments, cwd):
    """Run a script from another folder, as `ray submit` does."""
    return subprocess.run(
        [sys.executable, str(JOBS / script), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "RAY_ADDRESS": ""},
    )  # fmt: skip


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
    assert "28 cells made" in whole.stdout
    for step in STEPS[:2]:
        done = submit(f"{step.name.replace('-', '_')}.py", study, "--results", tmp_path / "steps", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    parts = snapshot(tmp_path / "steps")
    assert parts.items() <= snapshot(tmp_path / "whole").items()
    assert len(parts) == 3


def test_a_failure_is_an_exit_code(tmp_path):
    failed = submit("study.py", "--study", "quik", "--results", tmp_path, cwd=tmp_path)
    assert failed.returncode == 2
    assert "did you mean 'quick'" in failed.stderr


@pytest.mark.parametrize("name", ["cluster.yaml"])
def test_the_cluster_file_is_one_that_ray_accepts(name):
    """Ray's own validation, and the points on which a file of this provider fails without a word."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((JOBS.parent / name).read_text())
    assert "available_node_types" not in config
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    assert config["provider"]["head_ip"] in config["head_start_ray_commands"][-1]
    validate_config(prepare_config(config))
