"""VGG16 (paper IV): torchvision's, and the same function in less work on small images."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.networks.classifier import Architecture
from harness.networks.imagenet import pretrained_file, pretrained_statistics
from harness.networks.stem import three_channels
from harness.networks.weights import Statistics

_SMALLEST = 32  # five poolings
_POOLED = 7  # side of the map that the linear layers see


class Vgg16(Architecture):
    """torchvision's VGG16 (Simonyan and Zisserman 2015, configuration D)."""

    title: ClassVar[str] = "VGG16"
    takes_any_size: ClassVar[bool] = True
    stores_draws: ClassVar[bool] = True
    repeats_grey: ClassVar[bool] = True

    architecture: Literal["vgg16"] = "vgg16"
    pretrained: bool = Field(
        False,
        description="start from torchvision's ImageNet weights, or those of the file, but for the last layer",
    )

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        return Vgg16Body(size, classes)

    def initial_file(self) -> Path | None:
        return pretrained_file("vgg16", self.weights) if self.pretrained else super().initial_file()

    def drawn(self, body: nn.Module) -> tuple[str, ...]:
        return ("vgg.classifier.6.",) if self.pretrained else ()

    def statistics(self) -> Statistics | None:
        return super().statistics() or (pretrained_statistics("vgg16") if self.pretrained else None)


class Vgg16Body(nn.Module):
    """torchvision's layers; grey images are repeated to three channels, small ones zero-padded to 32 x 32."""

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        from torchvision.models import vgg16

        super().__init__()
        self.vgg = vgg16(weights=None)
        self.vgg.classifier[6] = nn.Linear(4096, classes)
        alike = [_alike(max(side, _SMALLEST) // _SMALLEST) for side in size]
        # On the meta device names and shapes are all there is, and they are torchvision's.
        is_real = not self.vgg.classifier[0].weight.is_meta
        if is_real and any(len(rows) < _POOLED for rows in alike):
            self.vgg.avgpool = _Windows(alike[0], alike[1])
            self.vgg.classifier[0] = _WindowLinear(self.vgg.classifier[0], alike[0], alike[1])

    def forward(self, x: Tensor) -> Tensor:
        x = three_channels(x)
        high, wide = (max(0, _SMALLEST - side) for side in x.shape[-2:])
        logits: Tensor = self.vgg(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))
        return logits


# --- small images ------------------------------------------------------------------------------------
# torchvision pools the last map adaptively to 7 x 7, whatever its size. An image of 32 x 32 leaves a map of
# 1 x 1: its 512 features come 49 times, and 102 of VGG16's 134 million weights multiply copies. Copies of a
# feature have the same gradient and so take the same optimiser steps. It is enough to compute with the mean
# weight of each distinct pooling window, and to move all weights of a window as their mean moved. The state
# dict holds torchvision's weights.


@dataclass(frozen=True)
class _Alike:
    """Pooled rows ``copies`` that see the same rows ``seen`` of a map."""

    copies: slice
    seen: slice

    @property
    def count(self) -> int:
        return self.copies.stop - self.copies.start


def _alike(side: int) -> list[_Alike]:
    """The distinct windows of adaptive pooling from ``side`` rows to 7, in order."""
    seen = [(row * side // _POOLED, -(-(row + 1) * side // _POOLED)) for row in range(_POOLED)]
    distinct = sorted(set(seen))
    return [_Alike(slice(seen.index(w), seen.index(w) + seen.count(w)), slice(*w)) for w in distinct]


class _Windows(nn.Module):
    """Adaptive average pooling to 7 x 7, each distinct window once: [B, C, h, w] -> [B, C, rows, columns]."""

    def __init__(self, rows: list[_Alike], columns: list[_Alike]) -> None:
        super().__init__()
        self._rows, self._columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self._rows[-1].seen.stop or x.shape[3] != self._columns[-1].seen.stop:
            raise ValueError(
                f"a network built for images of another size got a last map of {x.shape[2]} x {x.shape[3]}"
            )
        x = torch.stack([x[:, :, row.seen].mean(2) for row in self._rows], 2)
        return torch.stack([x[..., column.seen].mean(3) for column in self._columns], 3)


class _PerCopy(torch.autograd.Function):
    """The weights as they are; backward, the gradient of one copy where that of all copies' sum comes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(copies)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (copies,) = ctx.saved_tensors
        return gradient / copies, None


class _WindowLinear(nn.Linear):
    """The linear layer after the pooling, on distinct windows.

    Its ``weight`` [out, C * windows] is the mean over the windows' copies.

    In a state dict it is the layer that it replaces: a weight [out, C * 49].
    """

    copies: Tensor

    def __init__(self, whole: nn.Linear, rows: list[_Alike], columns: list[_Alike]) -> None:
        self._windows = [(row, column) for row in rows for column in columns]
        channels = whole.in_features // _POOLED**2
        super().__init__(channels * len(self._windows), whole.out_features, device="meta")
        self.bias = whole.bias
        self._begin(whole.weight.detach())
        self.weight = nn.Parameter(self._mean.clone())
        counts = torch.tensor([float(row.count * column.count) for row, column in self._windows])
        self.register_buffer("copies", counts.repeat(channels), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_WindowLinear":
        """A copy that shares the weights as they were: 400 MB that are only read."""
        memo |= {id(value): value for value in (self._whole, self._mean)}
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update({name: deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copy

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.copies, _PerCopy.apply(self.weight, self.copies), self.bias)

    def _tiles(self, whole: Tensor) -> list[Tensor]:
        """Views of the weights [out, C, 7, 7] by window."""
        tiles = whole.view(len(whole), -1, _POOLED, _POOLED)
        return [tiles[:, :, row.copies, column.copies] for row, column in self._windows]

    def _begin(self, whole: Tensor) -> None:
        """Keep all weights [out, C * 49] and their means, on the CPU: saving the layer needs them again."""
        self._whole = whole.cpu()
        self._mean = torch.stack([tile.mean((2, 3)) for tile in self._tiles(self._whole)], 2).flatten(1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        moved = (self.weight.detach().cpu() - self._mean).view(self.out_features, -1, len(self._windows))
        whole = self._whole.clone()
        for window, tile in enumerate(self._tiles(whole)):
            tile += moved[:, :, window, None, None]
        destination[prefix + "weight"] = whole

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        whole = state_dict.get(prefix + "weight")
        if whole is not None and whole.shape == self._whole.shape:
            self._begin(whole.detach())
            state_dict[prefix + "weight"] = self._mean
        super()._load_from_state_dict(state_dict, prefix, *rest)
