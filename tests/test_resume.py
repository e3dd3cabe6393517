"""SIGKILL of the driver: the same command goes on, redoes nothing that was finished, and ends in the same
tables.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import snapshot, tiny_study

LAST_CELL = 28  # of the tiny study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    study = folder / "tiny.yaml"
    study.write_text(yaml.safe_dump(tiny_study()))
    assert start(study, folder / "results").wait() == 0
    return study, snapshot(folder / "results")


def start(study, results):
    log = results.with_suffix(".log")
    command = [sys.executable, "-m", "harness.cli", "run", str(study), "--results", str(results)]
    return subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True)


def cells(results):
    """Finished cells and when their files were written."""
    return {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")}


def test_sigkill(undisturbed, tmp_path):
    """In the grid, without Ray; test_faults kills drivers at other moments, and Ray's processes."""
    finished = 8
    study, expected = undisturbed
    driver = start(study, tmp_path)
    while len(cells(tmp_path)) < finished:
        assert driver.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = cells(tmp_path)
    assert finished <= len(before) < LAST_CELL
    assert start(study, tmp_path).wait() == 0, tmp_path.with_suffix(".log").read_text()
    after = cells(tmp_path)
    assert {path: after[path] for path in before} == before
    assert snapshot(tmp_path) == expected
    assert not list(tmp_path.rglob("*.checkpoint"))
