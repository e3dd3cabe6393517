"""A linear classifier."""

from typing import ClassVar, Literal

from torch import nn

from harness.networks.classifier import Architecture


class Linear(Architecture):
    """One layer."""

    title: ClassVar[str] = "linear"

    architecture: Literal["linear"] = "linear"

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
