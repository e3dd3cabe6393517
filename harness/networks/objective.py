"""What a training minimises: what an objective is given, and the loss that it is.

An objective is made from ``Inputs``, which hold what its method declares in ``Needs``, and is a loss of the
network in training. How that is minimised, where and in which arithmetic is for ``training``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.classifier import Classifier, as_input
from harness.settings import Radius, Settings

Logits = Callable[[Tensor], Tensor]  # float32 images [B, C, H, W] -> float32 logits [B, classes]


class TrainingAttack(Settings):
    """One attack of the study, at one epsilon where it has several."""

    attack: str
    epsilon: Radius | None = None


@dataclass(frozen=True)
class Needs:
    """What a training is given beside the clean images and their labels."""

    bound: bool = False  # ``Inputs.distance``
    base_outputs: bool = False  # ``Inputs.base_outputs``
    images_of: TrainingAttack | None = None  # ``Inputs.adversarial``: what this attack made of the images
    other_bases: bool = False  # ``Inputs.other_bases``


@dataclass(frozen=True)
class Inputs:
    """What objectives are made from, on the training's device; images in the order of the split.

    pixels uint8 [N, C, H, W]; labels, ids int64 [N]. The others are there where ``Needs`` says so: distance
    float32 [N] (d_i of the bound); base_outputs float32 [N, classes], log-probabilities of the base network
    on the clean images; adversarial float32 [N, C, H, W], made on the base network; other_bases, the base
    networks of the study's other seeds, in eval mode and frozen.
    """

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    distance: Tensor | None = None
    base_outputs: Tensor | None = None
    adversarial: Tensor | None = None
    other_bases: tuple[Classifier, ...] = ()

    def clean(self, images: Tensor) -> Tensor:
        """float32 [B, C, H, W] in [0, 1]: the clean images at positions int64 [B]."""
        return as_input(self.pixels[images])


class InTraining:
    """The network in training, as its objective sees it: float32 images [B, C, H, W] to float32 logits.

    Call it once a step, with all images of the step: several processes average the gradients of that one
    pass. Dropout is on, and the arithmetic is the training's.
    """

    def __init__(self, network: nn.Module, wrapped: nn.Module, device: torch.device, precision: str) -> None:
        """``wrapped`` averages the gradients of ``network`` over processes; with one it is ``network``."""
        self.batch = 0  # number of the global batch within the epoch, the same in every process
        self._network, self._wrapped = network, wrapped
        self._device, self._is_bfloat16 = device, precision == "bfloat16"

    def __call__(self, images: Tensor) -> Tensor:
        return self._logits(self._wrapped, images)

    @contextmanager
    def frozen(self, other: nn.Module | None = None) -> Iterator[Logits]:
        """Logits for an inner maximisation, in the training's arithmetic: of this network or of ``other``.

        Meanwhile it is in eval mode, so without dropout, as in the official code of TRADES (``model.eval()``
        in trades.py), and its weights take no gradients. As it was afterwards.
        """
        network = self._network if other is None else other
        mode = network.training
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        network.train(False)
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield lambda images: self._logits(network, images)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            network.train(mode)

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        # bfloat16 is for the products alone: weights, gradients, Adam's moments and the loss stay float32.
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bfloat16):
            logits: Tensor = network(images.contiguous(memory_format=torch.channels_last))
        return logits.float()


@dataclass(frozen=True)
class Objective:
    """The samples of one epoch and the loss of each.

    ``loss(network, indices, epoch)`` -> float32 [B] for int64 sample indices [B] below ``samples``; epochs
    count from 1. A sample's loss depends on itself, the weights and dropout alone: not on the others of its
    batch, nor on the number of processes.

    ``is_steady``: in every full batch of an epoch the loss does the same to other numbers. It looks at no
    value of a tensor, nor at ``network.batch``, and draws by ``seeds`` and torch's generator alone: then a
    GPU may replay the first batch's work for the others.
    """

    samples: int
    loss: Callable[[InTraining, Tensor, int], Tensor]
    is_steady: bool = False


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-sample cross entropy [B]."""
    return F.cross_entropy(logits, labels, reduction="none")


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Per-sample KL(target || network) [B] of log-probabilities [B, classes] and a network's logits."""
    outputs = F.log_softmax(logits, dim=1)
    return F.kl_div(outputs, target, reduction="none", log_target=True).sum(1)


def supervised(inputs: Inputs) -> Objective:
    """Clean images and their labels: the base network (paper IV)."""

    def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
        return cross_entropy(network(inputs.clean(indices)), inputs.labels[indices])

    return Objective(len(inputs.pixels), loss, is_steady=True)
