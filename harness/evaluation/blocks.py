"""Attacking a block of images: a few batches, fixed by image order and the study's batch size.

Whoever computes it, so that the number of workers changes no number. Everything is measured on the tensor
that is kept.
"""

import time
from typing import Any

import numpy as np
from torch import Tensor

from harness.attacks.attack import Attack, Protocol, norms, perturb
from harness.attacks.batch import logits
from harness.attacks.guard import time_limit
from harness.data.datasets import Images
from harness.networks.classifier import Classifier, as_input, to_tensor
from harness.networks.device import device

BATCHES_PER_BLOCK = (
    4  # images that take the place of those that are done: what is not full is a block's last batch
)


def blocks(count: int, size: int) -> list[slice]:
    """Consecutive ranges of at most ``size`` images."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def attack_block(
    network: Classifier,
    images: Images,
    settings: Attack,
    protocol: Protocol,
    seed: int,
    batch_size: int,
    limit_s: float | None = None,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Attack one block: for each epsilon the rows by column, and the adversarial images float32 [B, C, H, W].

    The attack starts from the network's prediction (the paper's protocol) or the true label; ``batch_size``
    images are in the network at once. RuntimeError for an attack that may not end (``Attack.is_limited``) and
    takes longer than ``limit_s``.
    """
    on = device()
    clean = as_input(to_tensor(images.pixels, on))
    predicted = logits(network, clean, batch_size).argmax(1)
    start = to_tensor(images.labels, on) if protocol == "label" else predicted
    began = time.perf_counter()
    with time_limit(limit_s if settings.is_limited else None, settings.algorithm):
        made = perturb(network, clean, start, to_tensor(images.ids, on), settings, seed, batch_size)
    # One gradient serves every epsilon: the time is the block's, shared out evenly.
    seconds = (time.perf_counter() - began) / (len(images.ids) * len(made))
    return [
        (
            _rows(network, images, clean, predicted, adversarial, seconds, batch_size),
            adversarial.cpu().numpy(),
        )
        for adversarial in made
    ]


def _rows(
    network: Classifier,
    images: Images,
    clean: Tensor,
    predicted: Tensor,
    adversarial: Tensor,
    seconds: float,
    batch_size: int,
) -> dict[str, Any]:
    """Rows of the table ``attack``, measured on the images that came back; ``seconds`` an image."""
    return {
        "image_id": images.ids,
        "label": images.labels,
        "predicted": predicted.cpu().numpy(),
        "adversarial_predicted": logits(network, adversarial, batch_size).argmax(1).cpu().numpy(),
        **norms(clean, adversarial),
        "attack_s": np.full(len(images.ids), seconds),
    }


# --- worst cases ------------------------------------------------------------------------------------------

# What a member of a worst case takes over of the images that the members before it fooled.
SO_FAR = ("adversarial_predicted", "l0", "mean_l1", "l1", "l2", "linf")

# For one epsilon: rows by column, and the images, or None where they were not kept.
Attacked = tuple[dict[str, Any], np.ndarray | None]


def attack_survivors(
    network: Classifier,
    images: Images,
    settings: Attack,
    before: list[Attacked] | None,
    seed: int,
    batch_size: int,
    limit_s: float | None = None,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """One member of a worst case on one block: for each epsilon what it and the members before it made.

    ``before``: the same of those members, for each epsilon; None for the first. An image that the network
    gets wrong stays as it is, one that was fooled stays what it was; the others are attacked, from their true
    class, and are from now on what came of it. ``attack_s`` is of this member alone.
    """
    clean = as_input(to_tensor(images.pixels, device()))
    predicted = logits(network, clean, batch_size).argmax(1)
    untouched = _rows(network, images, clean, predicted, clean, 0.0, batch_size)
    made = []
    for position, epsilon in enumerate(settings.epsilons):
        rows = {name: values.copy() for name, values in untouched.items()}
        adversarial = clean.cpu().numpy().copy()
        if before is not None:
            so_far, kept = before[position]
            rows |= {name: values.copy() for name, values in so_far.items()}
            adversarial = adversarial if kept is None else kept.copy()
        left = np.flatnonzero(rows["adversarial_predicted"] == images.labels)
        if len(left):
            alone = settings.with_epsilons((epsilon,))
            survivors = images.take(left)
            ((new, moved),) = attack_block(network, survivors, alone, "label", seed, batch_size, limit_s)
            for name, values in new.items():
                rows[name][left] = values
            adversarial[left] = moved
        made.append((rows, adversarial))
    return made


def stack(parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of consecutive blocks, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
