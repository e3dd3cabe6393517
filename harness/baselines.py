"""What the paper compares its defense with (V-D): adversarial training."""

from typing import Any

import torch
from torch import Tensor

from harness import networks
from harness.training import Inputs, Objective, cross_entropy


def adversarial(inputs: Inputs, settings: dict[str, Any]) -> Objective:
    """f1 fine-tuned on the clean training images and the images one attack made of them on f1 (Table VII).

    Args:
        inputs: needs ``adversarial``, one image for each clean one, in the same order.
    """
    assert inputs.adversarial is not None and len(inputs.adversarial) == len(inputs.pixels), (
        "one adversarial image for each clean one"
    )
    images, made = len(inputs.pixels), inputs.adversarial

    def batch(indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        image = indices % images
        clean = networks.as_input(inputs.pixels[image])
        return torch.where((indices < images).view(-1, 1, 1, 1), clean, made[image]), inputs.labels[image]

    return Objective(2 * images, batch, cross_entropy)
