"""A network of some architecture for some images."""

import numpy as np
import torch

from harness.errors import HarnessError
from harness.networks.classifier import Architecture, Classifier, Statistics

_SAMPLED = 4096  # images: statistics to normalise with need no more, and no float copy of all


def build(
    architecture: Architecture, pixels: np.ndarray, classes: int, seed: int, initial: bool = True
) -> Classifier:
    """A freshly initialised network for images like ``pixels`` (uint8 [N, C, H, W], the training images).

    ``initial=False`` leaves an architecture's initial weights out: stored ones follow, and only the first
    training of the base network needs their file.

    Raises HarnessError where initial weights are asked for and not found, or the images don't fit.
    """
    channels, size = pixels.shape[1], (pixels.shape[2], pixels.shape[3])
    if min(size) < 4 or channels not in (1, 3):
        raise HarnessError(
            "networks take images of 1 or 3 channels and at least 4 x 4 pixels, "
            f"got {channels} x {size[0]} x {size[1]}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = architecture.body(channels, size, classes)
    if initial:
        architecture.load_initial(body)
    mean, std = architecture.statistics() or _statistics(pixels)
    return Classifier(body, mean, std)


def _statistics(pixels: np.ndarray) -> Statistics:
    """Mean and deviation of each channel in [0, 1] units, from an even sample where images are many."""
    if len(pixels) > _SAMPLED:
        pixels = pixels[:: len(pixels) // _SAMPLED]
    channels = [pixels[:, channel].astype(np.float32) / 255 for channel in range(pixels.shape[1])]
    mean = tuple(float(values.mean()) for values in channels)
    return mean, tuple(max(float(values.std()), 1e-3) for values in channels)
