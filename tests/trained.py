"""What tests of trainings and defenses share: small networks, inputs, and stand-ins for one in training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.networks import ConvNet
from harness.networks.build import build
from harness.networks.classifier import Classifier
from harness.networks.objective import Inputs, InTraining, Objective, supervised
from harness.networks.training import Training, TrainingSettings

CPU = torch.device("cpu")


def network(data: Any, seed: int = 0, classes: int = 3) -> Classifier:
    return build(ConvNet(width=4), data.pixels, classes, seed)


def inputs(data: Any, **more: Any) -> Inputs:
    pixels, labels, ids = (torch.from_numpy(values) for values in (data.pixels, data.labels, data.ids))
    return Inputs(pixels, labels, ids, **more)


def train(
    data: Any,
    settings: TrainingSettings,
    objective: Objective | None = None,
    epochs: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Training:
    """A training of ``network(data)`` after so many epochs."""
    objective = objective or supervised(inputs(data))
    training = Training(network(data), objective, settings, 5, data, rank, world)
    training.start()
    for _ in range(settings.epochs if epochs is None else epochs):
        training.run_epoch()
    return training


def linear(data: Any, seed: int, classes: int = 2) -> Classifier:
    """Logits W x + b, weights drawn and none of them 0."""
    features = data.pixels[0].size
    layer = nn.Linear(features, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, features, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    channels = data.pixels.shape[1]
    return Classifier(nn.Sequential(nn.Flatten(), layer), (0.0,) * channels, (1.0,) * channels)


class Shown(InTraining):
    """A network in training that keeps the images of its step."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__(classifier, classifier, CPU, "float32")
        self.images = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        self.images = images.detach().clone()
        return super().__call__(images)


class Answering:
    """Stands for a network in training: keeps the images that it is shown, and gives fixed logits."""

    batch = 0

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.images, self._logits = torch.empty(0), logits

    def __call__(self, images: Tensor) -> Tensor:
        self.images = images
        return self._logits(images)

    @contextmanager
    def frozen(self, other: nn.Module | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
        yield self._logits


def weights(training: Training) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in training.network.parameters()]
