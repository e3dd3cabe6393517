"""Attacking a block of images: a few batches, fixed by image order and the study's batch size.

Whoever computes it, so that the number of workers changes no number. Everything is measured on the tensor
that is kept.
"""

import time
from typing import Any

import numpy as np
from torch import Tensor, nn

from harness.attacks.attack import Attack, Protocol, norms
from harness.attacks.batch import logits
from harness.attacks.guard import time_limit
from harness.data.datasets import Images
from harness.evaluation.fragility import fragility
from harness.evaluation.randomised import draws_column, fresh, perturbed
from harness.networks.classifier import as_input, to_tensor
from harness.networks.device import device

BATCHES_PER_BLOCK = (
    4  # images that take the place of those that are done: what is not full is a block's last batch
)


def blocks(count: int, size: int) -> list[slice]:
    """Consecutive ranges of at most ``size`` images."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def attack_block(
    network: nn.Module,
    images: Images,
    settings: Attack,
    protocol: Protocol,
    seed: int,
    batch_size: int,
    limit_s: float | None = None,
    tells_fragility: bool = False,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Attack one block: for each epsilon the rows by column, and the adversarial images float32 [B, C, H, W].

    The attack starts from the network's prediction (the paper's protocol) or the true label; ``batch_size``
    images are in the network at once. ``network`` is ``judged``: one that draws is attacked through the mean
    of draws, and its classes are those of fresh ones. ``tells_fragility``: with the columns of ``fragility``.
    RuntimeError for an attack that may not end (``Attack.is_limited``) and takes longer than ``limit_s``.
    """
    on = device()
    clean = as_input(to_tensor(images.pixels, on))
    ids = to_tensor(images.ids, on)
    predicted = _classes(network, clean, ids, batch_size)
    start = to_tensor(images.labels, on) if protocol == "label" else predicted
    began = time.perf_counter()
    with time_limit(limit_s if settings.is_limited else None, settings.algorithm):
        made = perturbed(network, clean, start, ids, settings, seed, batch_size)
    # One gradient serves every epsilon: the time is the block's, shared out evenly.
    seconds = (time.perf_counter() - began) / (len(images.ids) * len(made))
    shared = {
        "image_id": images.ids,
        "label": images.labels,
        "predicted": predicted.cpu().numpy(),
        "attack_s": np.full(len(images.ids), seconds),
        **draws_column(network, len(images.ids)),
    }
    results = []
    for adversarial in made:
        # Measured on the images that came back.
        rows = {
            **shared,
            "adversarial_predicted": _classes(network, adversarial, ids, batch_size).cpu().numpy(),
            **norms(clean, adversarial),
        }
        if tells_fragility:
            rows |= fragility(network, adversarial, ids, seed, batch_size)
        results.append((rows, adversarial.cpu().numpy()))
    return results


def _classes(network: nn.Module, images: Tensor, ids: Tensor, batch_size: int) -> Tensor:
    """The network's classes [B]; of one that draws, by draws that no attack saw."""
    with fresh(network, ids):
        return logits(network, images, batch_size).argmax(1)


def stack(parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of consecutive blocks, one after the other; of columns that all have."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
