"""Attacking and testing blocks of images: what a worker runs for the tables ``attack`` and ``evaluation``.

A task is a block of a few batches, fixed by image order and the study's batch size, whoever computes it, so
that the number of workers changes no number. Everything is measured on the tensor that is kept.
"""

import time
from typing import Any

import numpy as np

from harness import attacks, networks
from harness.attacks.gradients import logits
from harness.datasets import Images
from harness.spec import AttackSpec, Protocol

BATCHES_PER_TASK = (
    4  # images that take the place of those that are done: what is not full is a task's last batch
)


def blocks(count: int, size: int) -> list[slice]:
    """Consecutive ranges of at most ``size`` images."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def attack_block(
    network: networks.Classifier,
    images: Images,
    settings: AttackSpec,
    protocol: Protocol,
    seed: int,
    batch_size: int,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Attack one block: for each epsilon the rows by column, and the adversarial images float32 [B, C, H, W].

    The attack starts from the network's prediction (the paper's protocol) or the true label; ``batch_size``
    images are in the network at once.
    """
    on = networks.device()
    clean = networks.as_input(networks.to_tensor(images.pixels, on))
    predicted = logits(network, clean, batch_size).argmax(1)
    started = networks.to_tensor(images.labels, on) if protocol == "label" else predicted
    began = time.perf_counter()
    made = attacks.perturb(
        network, clean, started, networks.to_tensor(images.ids, on), settings, seed, batch_size
    )
    # One gradient serves every epsilon: the time is the block's, shared out evenly.
    seconds = (time.perf_counter() - began) / (len(images.ids) * len(made))
    results = []
    for adversarial in made:
        rows = {
            "image_id": images.ids,
            "label": images.labels,
            "predicted": predicted.cpu().numpy(),
            "adversarial_predicted": logits(network, adversarial, batch_size).argmax(1).cpu().numpy(),
            **attacks.norms(clean, adversarial),
            "attack_s": np.full(len(images.ids), seconds),
        }
        results.append((rows, adversarial.cpu().numpy()))
    return results


def white_box_block(
    network: networks.Classifier,
    images: Images,
    settings: AttackSpec,
    protocol: Protocol,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """Predictions int64 [B] on images made against this very network."""
    ((rows, _),) = attack_block(network, images, settings, protocol, seed, batch_size)
    predicted: np.ndarray = rows["adversarial_predicted"]
    return predicted


def stack(parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of consecutive blocks, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
