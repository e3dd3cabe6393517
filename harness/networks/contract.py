"""What a network and the images it takes must be, so that everything here can use them."""

import math

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.networks.weights import Statistics

_SMALLEST = 4  # pixels a side


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


def check_logits(body: nn.Module, channels: int, size: tuple[int, int], classes: int) -> None:
    """Raise HarnessError unless a body in eval mode returns finite logits [2, classes] for 2 images of zeros.

    What the body itself raises is passed on.
    """
    with torch.inference_mode():
        logits = body(torch.zeros(2, channels, *size))
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [2, classes]:
        raise HarnessError(f"a network should return logits [2, {classes}] for 2 images, got {got}")
    if not logits.isfinite().all():
        raise HarnessError(f"a network should return finite logits, got {logits.flatten()[:3].tolist()}")
