"""A study of about 500 tiny cells: the memory of the driver and of its workers must not grow with them.

    python tests/load/cells.py [--csv FILE]

Prints a table over the cells and fails where memory grows.
"""

import argparse
import csv
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import yaml
from memory import Sample, slope, watch

MOST_KB_A_CELL = 100.0  # a hundred thousand cells in 10 GB; what a cell's own record takes

TRAININGS = 160
STUDY = {
    "name": "load",
    "dataset": {"source": "digits", "train_limit": 60, "test_limit": 20},
    "network": {"architecture": "convnet", "width": 2},
    "base": {"epochs": 1, "batch_size": 32},
    "attacks": {"fgsm": {"epsilon": [0.1]}},
    "defenses": {
        "imperceptible_bound": {
            "k": [1 + step / 4 for step in range(TRAININGS // 10)],
            "n": list(range(1, 11)),
            "epochs": 1,
        }
    },
    "controls": False,
    "white_box": {"epsilon": [0.1, 0.2, 0.3, 0.4, 0.5], "step_divisors": [4, 10], "steps": 2},
    "compute": {"workers": 2},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--csv", type=Path, help="write the table here, too")
    arguments.add_argument("--results", help="an empty folder to keep the results in")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() if chosen.results is None else nullcontext(chosen.results) as folder:
        study, results = Path(folder, "load.yaml"), Path(folder, "results")
        study.write_text(yaml.safe_dump(STUDY))
        command = [sys.executable, "-m", "harness.cli", "run", str(study), "--results", str(results)]
        samples = list(watch(command, results))
    rows = _at_each(
        [sample for sample in samples if sample.workers], 50
    )  # not what is before and after the work
    for row in rows:
        print("  ".join(f"{value:>12}" for value in row))
    if chosen.csv:
        with chosen.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    # What is loaded once is no growth; workers come and go but while the black box is tested. After the last
    # cell MLflow is written.
    cells = [sample for sample in samples if 10 < sample.cells < samples[-1].cells]
    black_box = [sample for sample in samples if TRAININGS + 40 < sample.cells < 3 * TRAININGS - 10]
    grown = {
        "driver, over all cells": 1024 * slope(cells, "driver"),
        "workers, over the black box": 1024 * slope(black_box, "workers"),
    }
    for what, kilobytes in grown.items():
        print(f"{what}: {kilobytes:+.1f} kB a cell")
    sys.exit(max(grown.values()) > MOST_KB_A_CELL)


def _at_each(samples: list[Sample], step: int) -> list[tuple[object, ...]]:
    """The first sample at each number of cells, under its head."""
    rows: list[tuple[object, ...]] = [("cells", "seconds", "driver_mb", "workers_mb", "ray_mb", "total_mb")]
    wanted = 0
    for sample in samples:
        if sample.cells >= wanted or sample is samples[-1]:
            parts = (sample.driver, sample.workers, sample.ray, sample.total)
            rows.append((sample.cells, round(sample.seconds, 1), *(round(part, 1) for part in parts)))
            wanted = sample.cells - sample.cells % step + step
    return rows


if __name__ == "__main__":
    main()
