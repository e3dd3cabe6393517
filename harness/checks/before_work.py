"""The part of the checks that every run takes before its work: what is certain to fail, in a moment."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.checks.network import is_probabilities, training_parts
from harness.errors import Failed, HarnessError
from harness.networks.build import build
from harness.networks.classifier import Architecture, as_input, to_tensor

_TRIED = 2  # images


def before_work(networks: Mapping[str, Architecture], shape: tuple[int, int, int], classes: int) -> None:
    """Raise HarnessError with all that makes these networks useless, by what messages call them.

    Images are of ``shape`` (channels, height, width). See ``Architecture.check`` for kinds of the harness's.
    A network whose code is from outside is made, with its initial weights, and called for two images of
    noise: it must return finite logits [2, classes], no probabilities, and stay in eval mode.

    Attacks and defenses are left for when they run: on a network without training an honest one may fail,
    and what fails there is its own cells alone.
    """
    mistakes = [
        f"{name}: {mistake}" for name, one in networks.items() for mistake in _mistakes(one, shape, classes)
    ]
    if mistakes:
        raise HarnessError("\n  ".join(["networks that can't be used:", *mistakes]))


def _mistakes(architecture: Architecture, shape: tuple[int, int, int], classes: int) -> Iterator[str]:
    try:
        if architecture.package is None:
            architecture.check(shape[0], (shape[1], shape[2]), classes)
        else:
            yield from _wrong(architecture, shape, classes)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        yield Failed.of(error).reason


def _wrong(architecture: Architecture, shape: tuple[int, int, int], classes: int) -> Iterator[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (_TRIED, *shape)).astype(np.uint8)
    network = build(architecture, pixels, classes, 0).eval()
    with torch.no_grad():
        logits: Any = network(as_input(to_tensor(pixels, torch.device("cpu"))))
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [_TRIED, classes]:
        yield f"expected logits [{_TRIED}, {classes}] of {_TRIED} images, got {got}"
    elif not logits.isfinite().all():
        yield f"expected finite logits, got {logits.flatten()[:3].tolist()}"
    elif is_probabilities(logits):
        yield "expected logits, got what looks like probabilities: leave the last softmax out"
    if parts := training_parts(network):
        yield f"expected a network that stays in eval mode, got {parts[0]} in training mode"
