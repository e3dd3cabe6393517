"""A command watched from outside: memory of its process and of all that it started, as results grow."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_EVERY_S = 0.5
_RAY = ("gcs_server", "raylet")  # beside them run Ray's agents, in Python


@dataclass(frozen=True)
class Sample:
    """Proportional set sizes, in MB, which count what processes share once."""

    seconds: float
    cells: int
    driver: float
    workers: float
    ray: float

    @property
    def total(self) -> float:
        return self.driver + self.workers + self.ray


def watch(command: list[str], results: Path) -> Iterator[Sample]:
    """Run the command to its end; raises CalledProcessError where it fails."""
    began = time.monotonic()
    with subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": ""}) as child:
        while child.poll() is None:
            yield _sample(psutil.Process(child.pid), results, time.monotonic() - began)
            time.sleep(_EVERY_S)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)


def _sample(driver: psutil.Process, results: Path, seconds: float) -> Sample:
    sums = {"driver": _megabytes(driver.pid), "workers": 0.0, "ray": 0.0}
    try:
        for process in driver.children(recursive=True):
            sums[_kind(process)] += _megabytes(process.pid)
    except psutil.NoSuchProcess:
        pass  # it ended between the list and the look
    return Sample(seconds, sum(1 for _ in results.rglob("*.parquet")), **sums)


def _kind(process: psutil.Process) -> str:
    try:
        return "workers" if process.name().startswith("ray::") and "agent" not in process.name() else "ray"
    except psutil.NoSuchProcess:
        return "ray"


def _megabytes(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0


def slope(samples: list[Sample], part: str) -> float:
    """MB for each cell: the straight line through a part's samples."""
    cells = [sample.cells for sample in samples]
    return (
        float(np.polyfit(cells, [getattr(sample, part) for sample in samples], 1)[0])
        if len(set(cells)) > 1
        else 0.0
    )
