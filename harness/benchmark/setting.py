"""What the cases of a benchmark share: sizes, data, the machine, and networks worth attacking."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data import datasets
from harness.data.subset import DatasetSpec
from harness.networks.build import build
from harness.networks.classifier import Classifier, from_tensors, to_tensor, to_tensors
from harness.networks.convnet import ConvNet
from harness.networks.objective import Inputs, supervised
from harness.networks.training import Training, TrainingSettings


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    limit: int | None  # training images of the bound; None: all
    pairs: int  # pairs of images that a brute force compares before its time is scaled
    growth: tuple[int, ...]  # numbers of training images of the growth curves
    growth_queries: int
    attacked: int  # images of the fast attacks
    attacked_slowly: int  # images of the attacks whose peers need a second or so an image
    attacked_at_length: int  # images of those that take everybody seconds; 0: not measured
    batch: int  # images in the network at once, for all contenders but those whose default is one
    network_images: int  # training images of the networks that are attacked
    samples: int  # of a training epoch: images times perturbations
    cells: int  # of the grid


FULL = Sizes(
    None, 20_000_000, (3_000, 6_000, 12_000, 25_000, 50_000), 512, 128, 32, 16, 32, 10_000, 1_024, 12
)
GPU = Sizes(
    None, 200_000_000, (6_000, 12_000, 25_000, 50_000), 4_096, 10_000, 128, 128, 1_024, 50_000, 50_000, 12
)
SMOKE = Sizes(300, 10_000, (100, 200, 300), 32, 8, 4, 0, 4, 300, 64, 3)


@dataclass(frozen=True)
class Subject:
    """One data set of the benchmark, with the l-inf radii that fit it."""

    title: str
    dataset: DatasetSpec
    epsilons: tuple[float, ...]
    epochs: int  # of the network that is attacked
    width: int

    @cached_property
    def name(self) -> str:
        return self.dataset.label


_DIGITS = Subject("scikit-learn digits", DatasetSpec(source="digits"), (0.05, 0.1, 0.2, 0.3), 8, 8)
_MNIST = Subject("MNIST", DatasetSpec(source="mnist"), (0.05, 0.1, 0.2, 0.3), 3, 16)
_CIFAR_EPSILONS = (2 / 255, 4 / 255, 8 / 255, 16 / 255)
_CIFAR = (
    Subject("CIFAR-10", DatasetSpec(source="cifar10"), _CIFAR_EPSILONS, 6, 32),
    Subject(
        "CIFAR-10 (JPEG copies)", DatasetSpec(source="parquet", folder="cifar10-jpeg"), _CIFAR_EPSILONS, 6, 32
    ),
)


@dataclass(frozen=True)
class Setting:
    """One run: where the data are, how much is measured, on how many threads and which device."""

    data: Path | None
    sizes: Sizes
    threads: int
    device: torch.device

    @cached_property
    def workers(self) -> int:
        """Of a step at once: a GPU each where this one computes on GPUs, else a thread each."""
        return torch.cuda.device_count() if self.device.type == "cuda" else self.threads

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """MNIST and CIFAR-10 where their files are in the data folder; digits for a smoke test.

        Nothing is downloaded.
        """
        if self.sizes is SMOKE:
            return (_DIGITS,)
        mnist = [_MNIST] if self._has(_MNIST) else []
        cifar = [subject for subject in _CIFAR if self._has(subject)]
        return (*mnist, *cifar[:1])

    def _has(self, subject: Subject) -> bool:
        files = datasets.expected_files(subject.dataset, self.data)
        return bool(files) and all(path.is_file() for path in files)

    def load(self, subject: Subject, train: int | None, test: int | None = None) -> datasets.Dataset:
        """The subject's images, stratified subsets of at most these sizes."""
        asked = {"train_limit": train, "test_limit": test}
        limits = {name: value for name, value in asked.items() if value is not None}
        return datasets.load(subject.dataset.model_copy(update=limits), self.data)

    def network(self, subject: Subject) -> tuple[Classifier, datasets.Images, float]:
        """A small network trained on the subject, test images to attack, and its clean accuracy.

        The accuracy is on 1,000 of the test images, or all where there are fewer.
        """
        dataset = self.load(subject, self.sizes.network_images, None)
        train, test = dataset.train, dataset.test
        architecture = ConvNet(architecture="convnet", width=subject.width)
        model = build(architecture, train.pixels, len(dataset.classes), 0)
        pixels, labels, ids = (to_tensor(v, self.device) for v in (train.pixels, train.labels, train.ids))
        some = test.take(np.arange(min(1_000, len(test.ids))))
        settings = TrainingSettings(epochs=subject.epochs, learning_rate=0.001, batch_size=64)
        torch.set_num_threads(self.threads)
        training = Training(model, supervised(Inputs(pixels, labels, ids)), settings, 0, some)
        training.start()
        for _ in range(subject.epochs):
            row: dict[str, Any] = training.run_epoch()
        # As a study's workers load it.
        return from_tensors(model, to_tensors(model), self.device), test, row["clean_accuracy"]
