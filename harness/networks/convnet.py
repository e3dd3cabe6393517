"""A small network, which trains on a CPU in seconds."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from harness.networks.classifier import Architecture
from harness.settings import Count


class ConvNet(Architecture):
    """Four convolutions and two linear layers."""

    title: ClassVar[str] = "small network"
    takes_any_size: ClassVar[bool] = True
    stores_draws: ClassVar[bool] = True

    architecture: Literal["convnet"] = "convnet"
    width: Count = Field(32, description="channels of the first block")

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """Two blocks of two convolutions, each pooled by 2, so images have at least 4 x 4 pixels."""
        width, pooled = self.width, (size[0] // 4) * (size[1] // 4)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * pooled, 4 * width),
            nn.ReLU(True),
            nn.Linear(4 * width, classes),
        )
