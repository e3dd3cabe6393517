"""Networks that draw, judged: by the mean of fresh draws, other than those that an attack saw.

Draws come from the global generators, seeded for a block of images. Blocks are fixed by image order and batch
size, so that whoever computes one draws the same. Nothing here changes what a deterministic network computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack, perturb
from harness.attacks.guard import seeded
from harness.networks.randomised import Expected, is_randomised
from harness.seeds import derive

DRAWS = 20  # that every prediction, and every gradient, is the mean of
TRIED = 16  # images that tell whether a network draws
_TRYING = derive(0, "does it draw")
_JUDGING = derive(0, "judged")  # no attack's seed


def judged(network: nn.Module, images: Tensor) -> nn.Module:
    """The network itself, or, where it draws, its ``Expected``.

    Tried on the first of ``images``, float32 [B, C, H, W].
    """
    ids = torch.arange(1, device=images.device)
    with seeded(_TRYING, ids, None):
        draws = is_randomised(network, images[:TRIED])
    return Expected(network, DRAWS) if draws else network


def draws_of(network: nn.Module) -> int:
    """How many draws its predictions are the mean of; 0 for a deterministic network."""
    draws: int = getattr(network, "draws", 0)
    return draws


def draws_column(network: nn.Module, count: int) -> dict[str, np.ndarray]:
    """The column ``draws`` of so many rows; none for a deterministic network."""
    draws = draws_of(network)
    return {"draws": np.full(count, draws, np.int32)} if draws else {}


@contextmanager
def fresh(network: nn.Module, ids: Tensor) -> Iterator[None]:
    """Meanwhile a network that draws is judged: draws of a block's own, int64 ``ids`` [B]."""
    if not draws_of(network):
        yield
        return
    with seeded(_JUDGING, ids, None):
        yield


def perturbed(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: Attack,
    seed: int,
    batch_size: int,
) -> list[Tensor]:
    """``perturb``; of a network that draws, each epsilon by itself, with draws of its own."""
    if not draws_of(network):
        return perturb(network, images, labels, ids, settings, seed, batch_size)
    made = []
    for epsilon in settings.epsilons:
        alone = settings.with_epsilons((epsilon,))
        with seeded(seed, ids, epsilon):
            made += perturb(network, images, labels, ids, alone, seed, batch_size)
    return made
