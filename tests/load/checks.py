"""The checks over honest and planted networks: their raw statistics on a data set, as rows of a CSV.

    python tests/load/checks.py DATASET [--csv FILE] [--vgg16] [--images N] [--all]

DATASET: digits, mnist or cifar10-jpeg (of HARNESS_DATA). Trains the three honest networks here (of VGG16 the
base network and the defense), then judges them and the planted ones, on one core. Fails where an honest one
fails a check, or a planted one none.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import honest
import planted

from harness.checks.robustness import Case, Verdict, check_network
from harness.data import datasets
from harness.data.datasets import Dataset
from harness.data.subset import DatasetSpec
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.networks import Architecture, ConvNet, Vgg16
from harness.networks.classifier import as_input
from harness.networks.training import TrainingSettings


@dataclass(frozen=True)
class Setting:
    """A data set, the l-inf radius of its checks, and how base, defense and PGD training are trained."""

    dataset: DatasetSpec
    epsilon: float
    epochs: tuple[int, int, int]
    learning_rate: float = 0.002


_HEADER = ("data", "network", "check", "statistic", "threshold", "verdict", "images")
_CUT = {"train_limit": 2000, "test_limit": 500}
SETTINGS = {
    "digits": Setting(DatasetSpec(source="digits"), 0.1, (20, 4, 10)),
    "mnist": Setting(DatasetSpec(source="mnist", **_CUT), 0.2, (20, 5, 20), 0.001),
    "cifar10-jpeg": Setting(
        DatasetSpec(source="parquet", folder="cifar10-jpeg", **_CUT), 8 / 255, (20, 4, 10)
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("dataset", choices=SETTINGS)
    arguments.add_argument("--csv", type=Path, help="write the rows here, too")
    arguments.add_argument("--images", type=int, default=400, help="test images, taken evenly, at most")
    arguments.add_argument("--vgg16", action="store_true", help="instead of the small network of width 16")
    arguments.add_argument(
        "--all", action="store_true", help="all planted networks, not the named ones alone"
    )
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[chosen.dataset]
    data = os.environ.get("HARNESS_DATA")
    dataset = datasets.load(setting.dataset, Path(data) if data else None)
    architecture: Architecture = Vgg16() if chosen.vgg16 else ConvNet(width=16)
    title = chosen.dataset + (" VGG16" if chosen.vgg16 else "")
    rows, wrong = [], []
    for name, verdicts in judged(dataset, architecture, setting, chosen.images, chosen.all):
        rows += [(title, name, *_numbers(verdict)) for verdict in verdicts]
        failed = sorted(verdict.check for verdict in verdicts if verdict.verdict == "fail")
        if (name in planted.BROKEN or "pgd " in name) == (not failed):
            wrong.append(name)
        print(f"{name}: {', '.join(failed) or 'no check fails'}", flush=True)
    if chosen.csv:
        with chosen.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_HEADER, *rows])
    if wrong:
        sys.exit(f"not as expected: {', '.join(wrong)}")


def judged(
    dataset: Dataset, architecture: Architecture, setting: Setting, images: int, has_all: bool
) -> Iterator[tuple[str, list[Verdict]]]:
    """(name, verdicts) of every network."""
    networks = _trained(dataset, architecture, setting)
    case = _case(dataset, networks["base"], setting.epsilon, images)
    transfer = case.adversarial(torch.arange(len(case.ids)), case.pgd())
    wraps = planted.BROKEN | planted.HONEST if has_all else planted.NAMED
    tried = networks | {name: wrap(networks["base"]) for name, wrap in wraps.items()}
    for name in ("x1000", "round 256", "shatter"):
        if "pgd" in networks:
            tried[f"pgd {name}"] = planted.NAMED[name](networks["pgd"])
    if has_all:
        tried["ensemble"] = planted.Mean(*networks.values())
    for name, network in tried.items():
        began = time.perf_counter()
        of = replace(case, network=network, transfer=None if name == "base" else transfer)
        verdicts = check_network(of)
        print(f"{time.perf_counter() - began:6.1f} s  ", end="")
        yield name, verdicts


def _trained(dataset: Dataset, architecture: Architecture, setting: Setting) -> dict[str, nn.Module]:
    """Base, the paper's defense and, of the small network, PGD training."""
    first, second, third = setting.epochs
    if isinstance(architecture, Vgg16):
        base = honest.base(
            dataset, architecture, TrainingSettings(epochs=12, learning_rate=1e-4, batch_size=64)
        )
        bound = ImperceptibleBound(k=1.0, n=1, epochs=1, learning_rate=1e-4, batch_size=64)
        return {"base": base, "defended": honest.defended(dataset, base, bound)}
    shared = {"learning_rate": setting.learning_rate, "batch_size": 64}
    base = honest.base(dataset, architecture, TrainingSettings(epochs=first, **shared))
    bound = ImperceptibleBound(k=1.0, n=4, epochs=second, **shared)
    pgd = PgdTraining(epsilon=setting.epsilon, epochs=third, **shared)
    return {
        "base": base,
        "defended": honest.defended(dataset, base, bound),
        "pgd": honest.pgd_trained(dataset, architecture, pgd),
    }


def _case(dataset: Dataset, network: nn.Module, epsilon: float, count: int) -> Case:
    test = dataset.test.evenly(count)
    pixels, labels, ids = (torch.from_numpy(each.copy()) for each in (test.pixels, test.labels, test.ids))
    return Case(network, as_input(pixels), labels.long(), ids.long(), epsilon, 0, 128)


def _numbers(verdict: Verdict) -> tuple[object, ...]:
    numbers = [None if x is None else f"{x:.4g}" for x in (verdict.statistic, verdict.threshold)]
    return verdict.check, *numbers, verdict.verdict, verdict.images


if __name__ == "__main__":
    main()
