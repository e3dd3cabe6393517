"""What a network and the images it takes must be, so that everything here can use them."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.errors import HarnessError
from harness.networks.weights import Statistics

_SMALLEST = 4  # pixels a side
_SUMS = 1e-5  # within which probabilities sum to 1
_ALIKE = 1e-4  # of the largest value: rows that differ less are one


def check_images(channels: int, size: tuple[int, int]) -> None:
    """Raise HarnessError for images that no network here takes."""
    if min(size) < _SMALLEST or channels not in (1, 3):
        raise HarnessError(
            f"networks take images of 1 or 3 channels and at least {_SMALLEST} x {_SMALLEST} pixels, "
            f"got {channels} x {size[0]} x {size[1]}"
        )


def check_statistics(statistics: Statistics, channels: int, repeats_grey: bool) -> None:
    """Raise HarnessError unless there is a mean and a deviation above 0 for each channel.

    A network that repeats grey images to three channels (``repeats_grey``) may have three of each.
    """
    mean, std = statistics
    possible = sorted({channels, 3} if repeats_grey else {channels})
    if len(mean) not in possible or len(std) != len(mean):
        counts = " or ".join(map(str, possible))
        raise HarnessError(
            f"mean and std: expected {counts} values for images of {channels} channels, "
            f"got {len(mean)} and {len(std)}"
        )
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise HarnessError(f"mean and std: expected finite numbers, std above 0, got {mean} and {std}")


def check_body(body: nn.Module, channels: int, size: tuple[int, int], classes: int) -> None:
    """Raise HarnessError unless a body in eval mode is a classifier, as far as two images of noise show.

    It returns finite logits [2, classes], no probabilities, and stays in eval mode. What the body itself
    raises is passed on.
    """
    noise = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = body(noise)
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [2, classes]:
        raise HarnessError(f"expected logits [2, {classes}] of 2 images, got {got}")
    if not logits.isfinite().all():
        raise HarnessError(f"expected finite logits, got {logits.flatten()[:3].tolist()}")
    if is_probabilities(logits):
        raise HarnessError("expected logits, got what looks like probabilities: leave the last softmax out")
    if parts := training_parts(body):
        raise HarnessError(f"expected a network that stays in eval mode, got {parts[0]} in training mode")


def check_workers(body: nn.Module, workers: int) -> None:
    """Raise HarnessError where so many would train a body whose batches tie their images together."""
    layers = [name for name, layer in body.named_modules() if isinstance(layer, _BatchNorm)]
    if workers > 1 and layers:
        raise HarnessError(
            f"'{layers[0]}' normalises with the statistics of a batch, which {workers} workers would share "
            "out: train the network with workers: 1"
        )


def is_probabilities(logits: Tensor) -> bool:
    """Whether [B, classes] look like probabilities, or a multiple: none below 0, one sum for all images.

    Rows that are all the same are what a network without training may return: no sign, but for a sum of 1.
    """
    sums, total = logits.sum(1), logits[0].sum().item()
    if logits.min() < 0 or total <= 0 or (sums - total).abs().max() >= _SUMS * total:
        return False
    return abs(total - 1) < _SUMS or bool((logits - logits[:1]).abs().max() > _ALIKE * logits.max())


def training_parts(network: nn.Module) -> list[str]:
    """The names of the parts that are in training mode, '(all)' for the network itself."""
    return [name or "(all)" for name, module in network.named_modules() if module.training]
