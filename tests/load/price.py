"""What `harness plan` says a study will take beside what it takes: step by step, as rows of a CSV.

    python tests/load/price.py [--csv FILE] [STUDY ...]

STUDY: quick, mnist-cut, cifar10-cut; all unless some are named. The last two need MNIST and the JPEG copies
of CIFAR-10 in HARNESS_DATA. Each is planned for this machine, then run in a folder of its own.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.neighbours import growth
from harness.pipeline.run import price
from harness.study import costs, rates
from harness.study.plan import plan
from harness.study.reading import load
from harness.study.spec import Study

_SMALL = ("network={architecture: convnet, width: 16}", "base.learning_rate=0.001")
_CUT = (
    *("dataset.train_limit=1500", "dataset.test_limit=300", "checks.images=100"),
    *_SMALL,
    "defenses.imperceptible_bound.k=[1,2]",
    *("defenses.imperceptible_bound.n=[10]", "defenses.imperceptible_bound.epochs=5"),
    "white_box.step_divisors=[4,10]",
)
STUDIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "quick": ("quick", ()),
    "mnist-cut": ("mnist", ("name=mnist-cut", *_CUT)),
    "cifar10-cut": (
        "cifar10",
        (
            "name=cifar10-cut",
            *_CUT,
            "dataset.source=parquet",
            "dataset.folder=cifar10-jpeg",
            "defenses.adversarial_images={epochs: 5, precision: bfloat16, sources: [{attack: deepfool}]}",
            "white_box.epsilon=[8/255]",
        ),
    ),
}


@dataclass(frozen=True)
class Row:
    """Seconds of a step as planned and as they were; of all of it as a user waits for it."""

    study: str
    step: str
    planned_s: float
    took_s: float


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("study", nargs="*", choices=[[], *STUDIES], default=[])
    options.add_argument("--csv", type=Path, default=None)
    chosen = options.parse_args()
    rows = []
    for name in chosen.study or STUDIES:
        for row in _rows(name):
            ratio = f"{row.planned_s / row.took_s:.2f}" if row.took_s else ""
            seconds = f"{row.planned_s:8.1f} {row.took_s:8.1f}"
            print(f"{row.study:12} {row.step:14} {seconds} {ratio:>6}", flush=True)
            rows.append(row)
    if chosen.csv:
        with chosen.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row.__dataclass_fields__)
            for row in rows:
                writer.writerow([row.study, row.step, f"{row.planned_s:.1f}", f"{row.took_s:.1f}"])
    return 0


def _rows(name: str) -> Iterator[Row]:
    preset, overrides = STUDIES[name]
    data = os.environ.get("HARNESS_DATA")
    planned = _planned(load(preset, overrides), Path(data) if data else None)
    took = _took(preset, overrides)
    for step, seconds in planned.items():
        yield Row(name, step, seconds, took.get(step, 0.0))


def _planned(study: Study, data: Path | None) -> dict[str, float]:
    """Seconds a step, and of all, on this machine's workers."""
    extent = costs.extent(study, data)
    here, model = rates.measured(study, extent), growth.BoundModel.fit(growth.packaged())
    prices = price(costs.Quote(plan(study, "", None), extent, here, model))
    workers = costs.workers_here()
    steps = {each.step: each.on(workers) for each in prices}
    steps["bound"] += here.start_up.cluster_s  # the first step that needs Ray has it started
    return steps | {"all": costs.whole(prices, here.start_up, workers)}


def _took(preset: str, overrides: tuple[str, ...]) -> dict[str, float]:
    """The same of a run, by what it prints; raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "harness.cli", "run", preset, "--results", results]
        command += [word for setting in overrides for word in ("--set", setting)]
        began = time.perf_counter()
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        everything = time.perf_counter() - began
    done = re.findall(r"^(\S+) +done in ([\d.]+) (s|min)", run.stdout, re.MULTILINE)
    seconds = {step: float(value) * (60 if unit == "min" else 1) for step, value, unit in done}
    return seconds | {"all": everything}


if __name__ == "__main__":
    sys.exit(main())
