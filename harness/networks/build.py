"""A network of some architecture for some images."""

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from harness.networks.classifier import Architecture, Classifier
from harness.networks.contract import check_images
from harness.networks.undrawn import Undrawn
from harness.networks.weights import Statistics

_SAMPLED = 4096  # images: statistics to normalise with need no more, and no float copy of all


def build(
    architecture: Architecture,
    pixels: np.ndarray,
    classes: int,
    seed: int,
    initial: bool = True,
    tensors: Mapping[str, Tensor] | None = None,
) -> Classifier:
    """A freshly initialised network for images like ``pixels`` (uint8 [N, C, H, W], the training images).

    ``initial=False`` leaves an architecture's initial weights out: stored ones follow, and only the first
    training of the base network needs their file. ``tensors`` is what ``Architecture.read_initial`` returned;
    without it the file is read here.

    Raises HarnessError where initial weights are asked for and not found, or the images don't fit.
    """
    channels, size = pixels.shape[1], (pixels.shape[2], pixels.shape[3])
    check_images(channels, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = architecture.body(channels, size, classes)
    if not initial:
        tensors = None
    elif tensors is None:
        tensors = architecture.read_initial()
    if tensors is not None:
        architecture.load(body, tensors)
    mean, std = architecture.normalised_with(tensors) or _statistics(pixels)
    return Classifier(body, mean, std)


def blank(architecture: Architecture, pixels: np.ndarray, classes: int) -> Classifier:
    """A network like ``build``'s, to be filled with stored weights: until then its own may be anything."""
    with Undrawn() if architecture.stores_draws else nullcontext():
        return build(architecture, pixels, classes, 0, initial=False)


def _statistics(pixels: np.ndarray) -> Statistics:
    """Mean and deviation of each channel in [0, 1] units, from an even sample where images are many."""
    if len(pixels) > _SAMPLED:
        pixels = pixels[:: len(pixels) // _SAMPLED]
    channels = [pixels[:, channel].astype(np.float32) / 255 for channel in range(pixels.shape[1])]
    mean = tuple(float(values.mean()) for values in channels)
    return mean, tuple(max(float(values.std()), 1e-3) for values in channels)
