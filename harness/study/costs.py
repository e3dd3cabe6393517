"""What a study will cost, before it runs: cells, hours, disk and memory.

Hours come from the ``rates`` of one worker. How many gradients an attack or a training takes is known for
some and typical for others; each says so itself. The bound's cost comes from its own model of growth. What a
step does with these is for the pipeline to say, where the step is.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.data import SOURCES, datasets
from harness.data.source import Extent
from harness.neighbours.growth import BoundModel
from harness.networks.classifier import to_tensors
from harness.study.plan import Plan
from harness.study.rates import Rates, StartUp, untrained
from harness.study.spec import Study
from harness.study.trainings import Network

# Bytes of a Parquet file beside its rows (its whole specification among them), and of a compressed row: rows
# fitted to files of cut and whole studies on digits, MNIST and CIFAR-10, the rest to 134 files on digits of
# schema version 3, each within 24 %; more since for columns and versions that came after it.
_TABLE_BYTES = {
    "bound": (3_780, 10.1),
    "classes": (3_000, 12.0),
    "sample": (8_800, 75.0),
    "attack": (14_700, 26.0),
    "evaluation": (14_900, 3.6),
    "training": (11_710, 5.4),
    "check": (13_000, 60.0),
    "certified": (13_000, 12.0),
}


@dataclass(frozen=True)
class Price:
    """One step: its cells, what they take one worker alone, the longest of its tasks, bytes that it leaves.

    ``starts_s`` pass before its workers work, ``cell_s`` when the driver writes a cell.
    """

    step: str
    cells: int
    seconds: float
    longest: float
    bytes: int
    starts_s: float = 0.0
    cell_s: float = 0.0

    def on(self, workers: int) -> float:
        """Seconds of so many workers, among whom the tasks are shared out evenly, the longest first.

        The driver writes cells meanwhile, one by one.
        """
        if not self.cells:
            return 0.0
        return self.starts_s + max(self.longest, self.seconds / workers, self.cells * self.cell_s)


def whole(prices: Sequence[Price], start_up: StartUp, workers: int) -> float:
    """Seconds of a study of these steps, from the command to its tables."""
    return start_up.cluster_s + sum(price.on(workers) for price in prices) + start_up.closing_s


def extent(study: Study, data: Path | None) -> Extent:
    """The study's images: from what the official files are known to hold, else by loading them.

    Copies may have smaller images than the official files, so one is looked at where they are in ``data``.
    """
    spec = study.dataset
    official = SOURCES[spec.source].extent
    if official is None:
        dataset = datasets.load(spec, data)
        shape: Any = dataset.train.pixels.shape[1:]
        held = 0 if dataset.validation is None else len(dataset.validation.ids)
        train, test = len(dataset.train.ids), len(dataset.test.ids)
        return Extent(train, test, shape, len(dataset.classes), held, spec.white_box_limit)
    kept = spec.classes or official.classes
    train, test = (count * kept // official.classes for count in (official.train, official.test))
    train, test = min(spec.train_limit or train, train), min(spec.test_limit or test, test)
    held = spec.validation_limit or 0
    shape = datasets.image_shape(spec, data) or official.shape
    return Extent(train - held, test, shape, kept, held, spec.white_box_limit)


def workers_here() -> int:
    """GPUs of this machine, else its cores: what a study takes unless told otherwise."""
    return torch.cuda.device_count() or os.cpu_count() or 1


# --- a study's price ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quote:
    """What the price of a step follows from."""

    plan: Plan
    size: Extent
    rates: Rates
    bound: BoundModel

    def count(self, split: str) -> int:
        """Images of a split."""
        count: int = getattr(self.size, split)
        return count

    def step(
        self, name: str, cells: int, tasks: Iterable[tuple[float, int]], size: int, starts_s: float = 0.0
    ) -> Price:
        """The price of a step whose ``tasks`` are (seconds, how many of the kind)."""
        tasks = list(tasks)
        seconds = sum(each * count for each, count in tasks)
        longest = max((each for each, count in tasks if count), default=0.0)
        return Price(name, cells, seconds, longest, size, starts_s, self.rates.start_up.cell_s)


def training_price(step: str, networks: Iterable[Network], quote: Quote) -> Price:
    """Of trainings side by side: each of its samples costs a step, and what its objective takes beside it."""
    size, rates = quote.size, quote.rates
    weights = weight_bytes(quote.plan.study, size)
    tasks, written = [], 0
    for network in networks:
        settings = network.settings
        epoch = rates.training_s(settings, size.train * settings.samples_per_image)
        epoch += rates.forwards.seconds(size.test)
        # Ranks share out the images; each takes as many cores as it has threads.
        cores = 1 if rates.uses_gpu else settings.threads
        tasks.append((settings.epochs * epoch / settings.workers, settings.workers * cores))
        written += weights + table_bytes("training", settings.epochs + 1)
    return quote.step(step, len(tasks), tasks, written, rates.start_up.sweep_s)


def weight_bytes(study: Study, size: Extent) -> int:
    """Bytes of the study's network as it is stored."""
    return sum(value.nbytes for value in to_tensors(untrained(study, size)).values())


def table_bytes(table: str, rows: int) -> int:
    """Bytes of a cell's Parquet file."""
    file, row = _TABLE_BYTES[table]
    return round(file + rows * row)


def memory(study: Study, size: Extent) -> tuple[int, int]:
    """Bytes of the images that a machine's workers share; and of a training's worker, beside activations."""
    weights = sum(p.numel() for p in untrained(study, size).parameters())
    uses_images = any(settings.needs().images_of for _, settings in study.networks())
    adversarial = 4 * size.values * size.train if uses_images else 0
    # A weight, its gradient and Adam's two moments.
    images = size.train + size.validation + size.test
    return images * size.values, 16 * weights + size.train * size.values + adversarial
