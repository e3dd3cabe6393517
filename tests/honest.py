"""Three networks whose robustness can be measured, trained here: base, the paper's defense, PGD training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.datasets import Dataset, Images
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.networks.build import build
from harness.networks.classifier import Architecture, Classifier, as_input, logits
from harness.networks.objective import Inputs, Objective, supervised
from harness.networks.training import Training, TrainingSettings

CPU = torch.device("cpu")


def trained(
    dataset: Dataset,
    network: Classifier,
    settings: TrainingSettings,
    objective: Objective,
    seed: int = 0,
) -> Classifier:
    """The network after its training, as those who test it have it."""
    training = Training(network, objective, settings, seed, dataset.test.take(slice(0, 1)))
    training.start()
    for _ in range(settings.epochs):
        training.run_epoch()
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def fresh(dataset: Dataset, architecture: Architecture, seed: int = 0) -> Classifier:
    return build(architecture, dataset.train.pixels, len(dataset.classes), seed)


def inputs(images: Images, **more: Any) -> Inputs:
    pixels, labels, ids = (torch.from_numpy(np.array(a)) for a in (images.pixels, images.labels, images.ids))
    return Inputs(pixels, labels, ids, **more)


def base(
    dataset: Dataset, architecture: Architecture, settings: TrainingSettings, seed: int = 0
) -> Classifier:
    objective = supervised(inputs(dataset.train))
    return trained(dataset, fresh(dataset, architecture, seed), settings, objective, seed)


def defended(dataset: Dataset, start: Classifier, settings: ImperceptibleBound, seed: int = 0) -> Classifier:
    """Fine-tuned from ``start``, the base network."""
    made = torch.cat(list(logits(start, dataset.train.pixels, 256, CPU))).log_softmax(1).clone()
    given = inputs(dataset.train, distance=_distance(dataset.train), base_outputs=made)
    network = Classifier(
        _copy(start.body), tuple(start.mean.flatten().tolist()), tuple(start.std.flatten().tolist())
    )
    network.requires_grad_(True)
    return trained(dataset, network, settings, settings.objective(given, seed), seed)


def pgd_trained(
    dataset: Dataset, architecture: Architecture, settings: PgdTraining, seed: int = 0
) -> Classifier:
    """From weights that are drawn."""
    objective = settings.objective(inputs(dataset.train), seed)
    return trained(dataset, fresh(dataset, architecture, seed), settings, objective, seed)


def _copy(body: torch.nn.Module) -> torch.nn.Module:
    from copy import deepcopy

    return deepcopy(body)


def _distance(images: Images) -> Tensor:
    """d_i by brute force (eq. 2)."""
    x = as_input(torch.from_numpy(np.array(images.pixels))).flatten(1)
    labels = torch.from_numpy(np.array(images.labels))
    distance = torch.empty(len(x))
    for start in range(0, len(x), 256):
        part = slice(start, start + 256)
        far = torch.cdist(x[part], x, p=1)
        far[labels[part, None] == labels[None, :]] = torch.inf
        distance[part] = far.amin(1) / x.shape[1]
    return distance
