"""Fragility: how little it takes to undo an attack on the very network that it was made on."""

import numpy as np
import torch
from torch import Tensor, nn

from harness import seeds
from harness.attacks.batch import differentiable, logits
from harness.errors import Failed, attempt
from harness.evaluation.randomised import fresh
from harness.networks.classifier import as_input

NOISE_SD = 0.02  # in [0, 1] units: 5 of 255 levels


def fragility(
    network: nn.Module, adversarial: Tensor, ids: Tensor, seed: int, batch_size: int
) -> dict[str, np.ndarray]:
    """The network's classes [B] of adversarial images, float32 [B, C, H, W] in [0, 1], changed a little.

    Rounded to 256 levels; with N(0, .02) added, drawn by (seed, image id), and clipped; and as they are, but
    in bfloat16. The last is left out where the network does not compute in it.
    """

    def classes(asked: nn.Module, images: Tensor) -> np.ndarray:
        with fresh(asked, ids):
            predicted: np.ndarray = logits(asked, images, batch_size).argmax(1).cpu().numpy()
        return predicted

    def in_bfloat16() -> np.ndarray:
        return classes(differentiable(network, "bfloat16"), adversarial)

    columns = {
        "rounded_predicted": classes(network, rounded(adversarial)),
        "noisy_predicted": classes(network, noisy(adversarial, ids, seed)),
    }
    low = attempt(in_bfloat16)
    return columns if isinstance(low, Failed) else {**columns, "bfloat16_predicted": low}


def rounded(images: Tensor) -> Tensor:
    """As a file of 8 bits a value keeps them."""
    return as_input((255 * images).round().to(torch.uint8))


def noisy(images: Tensor, ids: Tensor, seed: int) -> Tensor:
    """N(0, .02) added, drawn by (seed, image id), and clipped."""
    drawn = seeds.normal(seeds.derive(seed, "fragility"), ids, torch.zeros_like(ids), images[0].numel())
    return (images + NOISE_SD * drawn.view_as(images)).clamp(0, 1)
