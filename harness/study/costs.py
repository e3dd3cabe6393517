"""What a study will cost, before it runs: cells, hours, disk and memory.

Hours come from rates that are measured for a few seconds on this machine with the study's own network, or
follow from an assumed speed of another machine. How many gradients an attack or a training takes is known for
some and typical for others; each says so itself. The bound's cost comes from its own model of growth. What a
step does with these is for the pipeline to say, where the step is.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.attacks.attack import perturb
from harness.attacks.gradient_sign import Fgsm
from harness.data import SOURCES, datasets
from harness.data.datasets import Images
from harness.data.source import Extent
from harness.neighbours.growth import BoundModel
from harness.networks.build import build
from harness.networks.classifier import Classifier, as_input, predict, to_tensor, to_tensors
from harness.networks.device import device, device_name, step_flops
from harness.networks.objective import Inputs, supervised
from harness.networks.training import Training, TrainingSettings
from harness.study.plan import Plan
from harness.study.spec import Study
from harness.study.trainings import Network

_CALIBRATION_S = 1.0  # of measuring each rate
# Bytes of a Parquet file beside its rows (its whole specification among them), and of a compressed row: rows
# fitted to files of cut and whole studies on digits, MNIST and CIFAR-10, the rest to 134 files on digits of
# schema version 3, each within 24 %; more since for columns and versions that came after it.
_TABLE_BYTES = {
    "bound": (3_780, 10.1),
    "attack": (14_700, 26.0),
    "evaluation": (14_900, 3.6),
    "training": (11_710, 5.4),
    "check": (13_000, 60.0),
    "certified": (13_000, 12.0),
}


@dataclass(frozen=True)
class Rates:
    """Images a second of one worker, and where the numbers come from."""

    trained: float
    gradients: float
    forwards: float
    source: str


@dataclass(frozen=True)
class Price:
    """One step: its cells, seconds of one worker alone, how many workers it can use, bytes that it leaves."""

    step: str
    cells: int
    seconds: float
    workers: int
    bytes: int


def extent(study: Study, data: Path | None) -> Extent:
    """The study's images: from what the official files are known to hold, else by loading them."""
    spec = study.dataset
    official = SOURCES[spec.source].extent
    if official is None:
        dataset = datasets.load(spec, data)
        shape: Any = dataset.train.pixels.shape[1:]
        held = 0 if dataset.validation is None else len(dataset.validation.ids)
        return Extent(len(dataset.train.ids), len(dataset.test.ids), shape, len(dataset.classes), held)
    kept = spec.classes or official.classes
    train, test = (count * kept // official.classes for count in (official.train, official.test))
    train, test = min(spec.train_limit or train, train), min(spec.test_limit or test, test)
    held = spec.validation_limit or 0
    return Extent(train - held, test, official.shape, kept, held)


def workers_here() -> int:
    """GPUs of this machine, else its cores: what a study takes unless told otherwise."""
    return torch.cuda.device_count() or os.cpu_count() or 1


# --- rates ------------------------------------------------------------------------------------------


def measured_rates(study: Study, size: Extent) -> Rates:
    """Rates of one worker here: seconds of each of the three, with the study's network, on random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (study.batch_size, *size.shape)).astype(np.uint8)
    count, on = len(pixels), device()
    images = Images(pixels, np.arange(count) % size.classes, np.arange(count))
    x, labels, ids = (to_tensor(values, on) for values in (images.pixels, images.labels, images.ids))
    network = _network(study, size)
    frozen = network.to(on).eval()
    fgsm = Fgsm(method="fgsm", epsilon=(0.1,))
    torch.set_num_threads(1)
    gradients = _rate(count, lambda: perturb(frozen, as_input(x), labels, ids, fgsm, 0))
    forwards = _rate(count, lambda: predict(frozen, pixels, 128, on))
    settings = _usual_training(study).model_copy(update={"epochs": 1})
    torch.set_num_threads(settings.threads)
    training = Training(network, supervised(Inputs(x, labels, ids)), settings, 0, images.take(slice(0, 1)))
    training.start()
    return Rates(_rate(count, training.run_epoch), gradients, forwards, f"measured on {device_name(on)}")


def _usual_training(study: Study) -> TrainingSettings:
    """The settings of the trainings that a study has most of."""
    return next((settings for _, settings in study.networks()), study.base)


def assumed_rates(study: Study, size: Extent, tflops: float) -> Rates:
    """Rates of a worker that does so many TFLOP/s on this network, whatever it does."""
    step = step_flops(_network(study, size), torch.zeros(1, *size.shape))
    # A third of a step is its forward pass; a gradient to the image takes a third more, without the weights'.
    trained, attacked, tested = (tflops * 1e12 / (thirds * step / 3) for thirds in (3, 2, 1))
    return Rates(trained, attacked, tested, f"assumed {tflops:g} TFLOP/s a worker")


def _network(study: Study, size: Extent) -> Classifier:
    pixels = np.random.default_rng(0).integers(0, 256, (8, *size.shape)).astype(np.uint8)
    return build(study.network, pixels, size.classes, 0, initial=False)


def _rate(images: int, work: Callable[[], Any]) -> float:
    work()
    began, rounds = time.perf_counter(), 0
    while rounds < 2 or time.perf_counter() - began < _CALIBRATION_S:
        work()
        rounds += 1
    return images * rounds / (time.perf_counter() - began)


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


def training_price(step: str, networks: Iterable[Network], quote: Quote) -> Price:
    """Of trainings side by side: each of its samples costs a step, and what its objective takes beside it."""
    size, rates = quote.size, quote.rates
    weights = weight_bytes(quote.plan.study, size)
    cells, seconds, workers, written = 0, 0.0, 0, 0
    for network in networks:
        settings = network.settings
        samples, gradients = settings.samples_per_image, settings.gradients_per_sample
        epoch = (
            size.train * samples * (1 / rates.trained + gradients / rates.gradients)
            + size.test / rates.forwards
        )
        cells += 1
        seconds += settings.epochs * epoch
        workers += settings.workers
        written += weights + table_bytes("training", settings.epochs + 1)
    return Price(step, cells, seconds, workers, written)


def weight_bytes(study: Study, size: Extent) -> int:
    """Bytes of the study's network as it is stored."""
    return sum(value.nbytes for value in to_tensors(_network(study, size)).values())


def table_bytes(table: str, rows: int) -> int:
    """Bytes of a cell's Parquet file."""
    file, row = _TABLE_BYTES[table]
    return round(file + rows * row)


def memory(study: Study, size: Extent) -> tuple[int, int]:
    """Bytes of the images that a machine's workers share; and of a training's worker, beside activations."""
    weights = sum(p.numel() for p in _network(study, size).parameters())
    uses_images = any(settings.needs().images_of for _, settings in study.networks())
    adversarial = 4 * size.values * size.train if uses_images else 0
    # A weight, its gradient and Adam's two moments.
    images = size.train + size.validation + size.test
    return images * size.values, 16 * weights + size.train * size.values + adversarial
