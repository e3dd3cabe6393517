"""Attacking a block of images: a few batches, fixed by image order and the study's batch size.

Whoever computes it, so that the number of workers changes no number. Everything is measured on the tensor
that is kept.
"""

import time
from dataclasses import dataclass
from functools import cached_property
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
    block = _Block(network, images, batch_size)
    start = to_tensor(images.labels, device()) if protocol == "label" else block.predicted
    began = time.perf_counter()
    with time_limit(limit_s if settings.is_limited else None, settings.algorithm):
        made = perturbed(network, block.clean, start, block.ids, settings, seed, batch_size)
    # One gradient serves every epsilon: the time is the block's, shared out evenly.
    seconds = (time.perf_counter() - began) / (len(images.ids) * len(made))
    told_by = seed if tells_fragility else None
    return [(block.rows(adversarial, seconds, told_by), adversarial.cpu().numpy()) for adversarial in made]


@dataclass(frozen=True)
class _Block:
    """Images, and the network that they are measured by."""

    network: nn.Module
    images: Images
    batch_size: int

    @cached_property
    def clean(self) -> Tensor:
        """float32 [B, C, H, W] in [0, 1]."""
        return as_input(to_tensor(self.images.pixels, device()))

    @cached_property
    def ids(self) -> Tensor:
        return to_tensor(self.images.ids, device())

    @cached_property
    def predicted(self) -> Tensor:
        """Classes of the clean images, int64 [B]."""
        return self.classes(self.clean)

    def classes(self, images: Tensor) -> Tensor:
        """The network's classes; of one that draws, by draws that no attack saw."""
        with fresh(self.network, self.ids):
            return logits(self.network, images, self.batch_size).argmax(1)

    def rows(self, adversarial: Tensor, seconds: float, told_by: int | None = None) -> dict[str, Any]:
        """Rows of the table ``attack``, measured on the images that came back; ``seconds`` an image.

        ``told_by``: the seed of the noise by which ``fragility`` is told; None: it is not.
        """
        rows = {
            "image_id": self.images.ids,
            "label": self.images.labels,
            "predicted": self.predicted.cpu().numpy(),
            "adversarial_predicted": self.classes(adversarial).cpu().numpy(),
            **norms(self.clean, adversarial),
            "attack_s": np.full(len(self.images.ids), seconds),
            **draws_column(self.network, len(self.images.ids)),
        }
        if told_by is not None:
            rows |= fragility(self.network, adversarial, self.ids, told_by, self.batch_size)
        return rows


# --- worst cases ------------------------------------------------------------------------------------------

# What a member of a worst case takes over of the images that the members before it fooled.
SO_FAR = ("adversarial_predicted", "l0", "mean_l1", "l1", "l2", "linf")

# For one epsilon: rows by column, and the images, or None where they were not kept.
Attacked = tuple[dict[str, Any], np.ndarray | None]


def attack_survivors(
    network: nn.Module,
    images: Images,
    settings: Attack,
    before: list[Attacked] | None,
    seed: int,
    batch_size: int,
    limit_s: float | None = None,
    tells_fragility: bool = False,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """One member of a worst case on one block: for each epsilon what it and the members before it made.

    ``before``: the same of those members, for each epsilon; None for the first. An image that the network
    gets wrong stays as it is, one that was fooled stays what it was; the others are attacked, from their true
    class, and are from now on what came of it. ``attack_s`` is of this member alone.
    """
    block = _Block(network, images, batch_size)
    untouched = block.rows(block.clean, 0.0)
    made = []
    for position, epsilon in enumerate(settings.epsilons):
        rows = {name: values.copy() for name, values in untouched.items()}
        adversarial = block.clean.cpu().numpy().copy()
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
        if tells_fragility:
            rows |= fragility(network, to_tensor(adversarial, device()), block.ids, seed, batch_size)
        made.append((rows, adversarial))
    return made


def stack(parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of consecutive blocks, one after the other; of columns that all have."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
