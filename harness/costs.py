"""What a study will cost, before it runs: cells, hours, disk and memory.

Hours come from rates that are measured for a few seconds on this machine with the study's own network, or
follow from an assumed speed of another machine. How many gradients an attack takes is known for some
attacks and typical for others (``gradients``). The bound's cost comes from ``growth``.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import STEPS, datasets, networks, report, training
from harness.attacks import perturb
from harness.datasets import Images
from harness.evaluation import BATCHES_PER_TASK
from harness.growth import BoundModel
from harness.plan import Plan
from harness.spec import AttackSpec, Fgsm, Study

_CALIBRATION_S = 1.0  # of measuring each rate
# Bytes of a Parquet file beside its rows (its whole specification among them), and of a compressed row: fitted to 207
# files of cut and whole studies on digits, MNIST and CIFAR-10, each within 23 %.
_TABLE_BYTES = {
    "bound": (3_580, 10.1),
    "attack": (8_530, 18.0),
    "evaluation": (8_560, 3.5),
    "training": (8_620, 5.4),
}
# Iterations of attacks that end by themselves: typical for small networks on MNIST and CIFAR-10, a factor of two is usual.
_DEEPFOOL_STEPS = 4
_JSMA_SHARE = 0.06  # of the values; two a step
_CW_SHARE = 0.6  # of binary_search_steps x steps
# Images of the official files: training, test, (channels, height, width), classes.
_OFFICIAL = {
    "mnist": (60_000, 10_000, (1, 28, 28), 10),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28), 10),
    "cifar10": (50_000, 10_000, (3, 32, 32), 10),
    "tinyimagenet": (100_000, 10_000, (3, 64, 64), 200),
}


@dataclass(frozen=True)
class Extent:
    """How many images a study has, and what they look like."""

    train: int
    test: int
    shape: tuple[int, int, int]
    classes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Rates:
    """Images a second of one worker, and where the numbers come from."""

    trained: float
    gradients: float
    forwards: float
    source: str


@dataclass(frozen=True)
class Price:
    """One step: its cells, the seconds of one worker alone, how many workers it can use, the bytes that it leaves."""

    step: str
    cells: int
    seconds: float
    workers: int
    bytes: int


def extent(study: Study, data: Path | None) -> Extent:
    """The study's images: from what the official files are known to hold, else by loading them from the data folder."""
    spec = study.dataset
    if spec.source not in _OFFICIAL:
        dataset = datasets.load(spec, data, study.seed)
        shape: Any = dataset.train.pixels.shape[1:]
        return Extent(len(dataset.train.ids), len(dataset.test.ids), shape, len(dataset.classes))
    train, test, shape, classes = _OFFICIAL[spec.source]
    kept = spec.classes or classes
    train, test = (total * kept // classes for total in (train, test))
    return Extent(min(spec.train_limit or train, train), min(spec.test_limit or test, test), shape, kept)


def gradients(settings: AttackSpec, classes: int, values: int) -> float:
    """Gradients to the image, each with its forward pass, that an attack takes for one image over all its epsilons.

    Known for FGSM, PGD and DDN; typical for those that end by themselves.
    """
    if isinstance(settings, Fgsm):
        return 1
    typical: dict[str, Callable[[Any], float]] = {
        "pgd": lambda s: s.steps * s.restarts * len(s.epsilon),
        "ddn": lambda s: s.steps,
        "deepfool": lambda s: min(s.steps, _DEEPFOOL_STEPS) * classes,
        "jsma": lambda s: min(s.gamma, _JSMA_SHARE) * values / 2,
        "jsma_pairs": lambda s: min(s.gamma, _JSMA_SHARE) * values,
        "cw_l2": lambda s: _CW_SHARE * s.binary_search_steps * s.steps,
    }
    return typical[settings.method](settings)


def workers_here() -> int:
    """GPUs of this machine, else its cores: what a study takes unless told otherwise."""
    return torch.cuda.device_count() or os.cpu_count() or 1


# --- rates ------------------------------------------------------------------------------------------


def measured_rates(study: Study, size: Extent) -> Rates:
    """Rates of one worker here: seconds of each of the three, with the study's network, on random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (study.batch_size, *size.shape)).astype(np.uint8)
    images = Images(pixels, np.arange(len(pixels)) % size.classes, np.arange(len(pixels)))
    network, on = _network(study, size), networks.device()
    torch.set_num_threads(1)
    x, labels, ids = (
        networks.as_input(networks.to_tensor(pixels, on)),
        *(networks.to_tensor(v, on) for v in (images.labels, images.ids)),
    )
    frozen = network.to(on).eval()
    fgsm = Fgsm(method="fgsm", epsilon=(0.1,))
    found = (
        _rate(len(pixels), lambda: perturb(frozen, x, labels, ids, fgsm, 0)),
        _rate(len(pixels), lambda: networks.predict(frozen, pixels, 128, on)),
    )
    torch.set_num_threads(study.defense.threads)
    objective = training.supervised(training.Inputs(networks.to_tensor(pixels, on), labels, ids), {})
    run = training.Training(
        network, objective, study.defense.model_copy(update={"epochs": 1}), 0, images.take(slice(0, 1))
    )
    run.start()
    return Rates(_rate(len(pixels), run.run_epoch), *found, f"measured on {training.device_name(on)}")


def assumed_rates(study: Study, size: Extent, tflops: float) -> Rates:
    """Rates of a worker that does so many TFLOP/s on this network, whatever it does."""
    step = training.step_flops(_network(study, size), torch.zeros(1, *size.shape))
    # A third of a step is its forward pass; a gradient to the image takes a third more, without the weights' gradients.
    trained, attacked, tested = (tflops * 1e12 / (thirds * step / 3) for thirds in (3, 2, 1))
    return Rates(trained, attacked, tested, f"assumed {tflops:g} TFLOP/s a worker")


def _network(study: Study, size: Extent) -> networks.Classifier:
    pixels = np.random.default_rng(0).integers(0, 256, (8, *size.shape)).astype(np.uint8)
    return networks.build(study.network, pixels, size.classes, 0, initial=False)


def _rate(images: int, work: Callable[[], Any]) -> float:
    work()
    began, rounds = time.perf_counter(), 0
    while rounds < 2 or time.perf_counter() - began < _CALIBRATION_S:
        work()
        rounds += 1
    return images * rounds / (time.perf_counter() - began)


# --- a study's price ----------------------------------------------------------------------------------


def price(plan: Plan, size: Extent, rates: Rates, model: BoundModel) -> list[Price]:
    """Every step of a study."""
    study = plan.study
    weights = sum(value.nbytes for value in networks.to_tensors(_network(study, size)).values())
    counts = {"train": size.train, "test": size.test}

    def train(step: str, networks: int, samples: int, epochs: int, workers: int) -> Price:
        per = epochs * (samples / rates.trained + size.test / rates.forwards)
        return Price(
            step,
            networks,
            networks * per,
            networks * workers,
            networks * (weights + _table_bytes("training", epochs + 1)),
        )

    attack_s = (
        sum(counts[a.split] * gradients(a.settings, size.classes, size.values) for a in plan.attacks)
        / rates.gradients
    )
    attack_bytes = sum(
        len(a.cells) * (4 * size.values * counts[a.split] + _table_bytes("attack", counts[a.split]))
        for a in plan.attacks
    )
    tested = _table_bytes("evaluation", size.test)
    task = BATCHES_PER_TASK * study.batch_size
    blocks = sum(-(-counts[a.split] // task) for a in plan.attacks)
    defense = study.defense
    samples = size.train * sum(defense.n) // len(defense.n)  # of a mean cell
    white = study.white_box
    attacked = 2 * len(white.epsilon) * len(white.step_divisors)
    steps = [
        Price("bound", 2, sum(model.seconds(q, size.train, size.values) for q in counts.values()), size.train // 512 + 1,
              sum(_table_bytes("bound", 2 * count) for count in counts.values())),
        train("base-network", 1, size.train, study.base.epochs, study.base.workers),
        Price("attack", sum(len(a.cells) for a in plan.attacks), attack_s, blocks, attack_bytes),
        train("defense", len(plan.defenses), samples, defense.epochs, defense.workers),
        train("baselines", len(plan.baselines), 2 * size.train, study.adversarial_training.epochs, study.adversarial_training.workers),
        Price("black-box", len(plan.black_box), len(plan.black_box) * size.test / rates.forwards, len(plan.networks),
              len(plan.black_box) * tested),
        Price("white-box", attacked, attacked * size.test * white.steps * white.restarts / rates.gradients,
              attacked * -(-size.test // task), attacked * tested),
    ]  # fmt: skip
    assert [p.step for p in steps] == [step.name for step in STEPS]
    return steps


def _table_bytes(table: str, rows: int) -> int:
    """Bytes of a cell's Parquet file."""
    file, row = _TABLE_BYTES[table]
    return round(file + rows * row)


def table(prices: list[Price], workers: int, source: str) -> report.Table:
    """A study's price: what each step takes on so many workers, and all of them."""
    lines: list[tuple[str, ...]] = []
    total_s, total_bytes = 0.0, 0
    for price in prices:
        seconds = price.seconds / max(1, min(workers, price.workers))
        total_s, total_bytes = total_s + seconds, total_bytes + price.bytes
        lines.append(
            (
                price.step,
                str(price.cells),
                report.duration(price.seconds),
                report.duration(seconds),
                report.size(price.bytes),
            )
        )
    lines.append(
        (
            "all",
            str(sum(p.cells for p in prices)),
            report.duration(sum(p.seconds for p in prices)),
            report.duration(total_s),
            report.size(total_bytes),
        )
    )
    note = f"Rates of one worker: {source}. Starting workers (seconds a step) is left out."
    return report.Table(
        "plan",
        "Price of the study",
        note,
        ("step", "cells", "one worker", f"{workers} workers", "disk"),
        lines,
    )


def memory(study: Study, size: Extent) -> tuple[int, int]:
    """Bytes of the images that all workers of a machine share; and of one training's worker, beside its activations."""
    weights = sum(p.numel() for p in _network(study, size).parameters())
    adversarial = 4 * size.values * size.train if study.adversarial_training.sources else 0
    # A weight, its gradient and Adam's two moments.
    return (size.train + size.test) * size.values, 16 * weights + size.train * size.values + adversarial
