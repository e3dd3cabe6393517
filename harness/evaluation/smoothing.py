"""The rows of a smoothed network: what is certified of a block of images, and attacked of some of them."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from harness.data.datasets import Images
from harness.errors import HarnessError
from harness.evaluation.certified import ABSTAINS, Smoothing, certify
from harness.evaluation.randomised import draws_of
from harness.evaluation.sandwich import JUDGING_DRAWS, smallest_fooling
from harness.networks.classifier import as_input, to_tensor
from harness.networks.device import device
from harness.seeds import derive


def certify_block(
    network: nn.Module,
    images: Images,
    is_attacked: tuple[bool, ...],
    smoothing: Smoothing,
    seed: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """A row for each image: the measured columns of table ``certified``.

    ``is_attacked``: for which images the smoothed network is attacked as well, unless it abstains.
    HarnessError for a network that draws at random: the bound is of a function f.
    """
    if draws_of(network):
        raise HarnessError(
            "expected a deterministic network, got one that draws at random: "
            "randomised smoothing certifies none of these"
        )
    on = device()
    pixels, labels, ids = (to_tensor(each, on) for each in (images.pixels, images.labels, images.ids))
    clean = as_input(pixels)
    found = certify(network, clean, labels, ids, smoothing, seed, batch_size)
    attacked = [
        position
        for position, certificate in enumerate(found)
        if is_attacked[position] and certificate.prediction != ABSTAINS
    ]
    where = torch.tensor(attacked, dtype=torch.int64, device=on)
    classes = torch.tensor([found[position].prediction for position in attacked], dtype=torch.int64).to(on)
    drawn_by = derive(seed, "sandwich")
    changes = smallest_fooling(network, clean[where], classes, ids[where], smoothing, drawn_by, batch_size)
    rows = [{**asdict(each), "attacked_l2": None, "attacked_draws": None} for each in found]
    for position, change in zip(attacked, changes, strict=True):
        rows[position] |= {"attacked_l2": change, "attacked_draws": JUDGING_DRAWS}
    return rows
