"""Several studies at once on one Ray cluster: each ends with what it finds alone."""

import os
import subprocess
import sys

import pytest
import yaml
from conftest import run_study, snapshot, tiny_study

# Three workers each of four cores: each waits for some that the other has.
_WORKERS = 3


@pytest.mark.ray
def test_two_drivers_on_one_cluster(tmp_path, ray_session):
    import ray

    address = ray.get_runtime_context().gcs_address
    few = {**tiny_study(), "defenses": {}}  # workers of each are started three times: seconds each time
    studies = {seed: {**few, "name": f"tiny-{seed}", "seeds": [seed]} for seed in (0, 1)}
    drivers = {seed: _start(tmp_path / str(seed), study, address) for seed, study in studies.items()}
    alone = {}
    for seed, study in studies.items():
        run_study(study, tmp_path / f"alone-{seed}")
        alone[seed] = snapshot(tmp_path / f"alone-{seed}")
    for seed, driver in drivers.items():
        said, _ = driver.communicate(timeout=600)
        assert driver.returncode == 0, said
        assert snapshot(tmp_path / str(seed) / "results") == alone[seed]
    assert alone[0] != alone[1]
    assert ray.is_initialized()


def _start(folder, study, address):
    """A driver that joins the cluster at an address, its results in the folder."""
    folder.mkdir()
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "harness.cli", "run", str(path), "--workers", str(_WORKERS)]
    return subprocess.Popen(
        [*command, "--results", str(folder / "results")],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
