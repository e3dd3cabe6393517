"""Brightness: one constant added to all values of an image."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.batch import logits
from harness.settings import Count


class Brightness(Attack):
    """The first of some steps toward white at which the network changes its mind."""

    title: ClassVar[str] = "Brightness"

    method: Literal["brightness"]
    steps: Count = 10

    def cost(self, classes: int, values: int) -> float:
        return 0

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        moved = images.clone()
        for step in range(1, self.steps + 1):
            staying = logits(network, moved, batch_size).argmax(1) == labels
            brighter = (images + step / self.steps).clamp(0, 1)
            moved = torch.where(staying[:, None, None, None], brighter, moved)
        return [moved]
