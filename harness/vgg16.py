"""VGG16 (paper IV): torchvision's, its ImageNet weights, and the same function in less work on small images."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import HarnessError
from harness.spec import NetworkSpec

# torchvision's VGG16_Weights.IMAGENET1K_V1: the file's name carries the first digits of its sha256.
_FILE, _SHA256 = "vgg16-397923af.pth", "397923af"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALLEST = 32  # five poolings
_POOLED = 7  # side of the map that the linear layers see


class Vgg16(nn.Module):
    """torchvision's VGG16; grey images are repeated to three channels, small ones zero-padded to 32 x 32."""

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        from torchvision.models import vgg16

        super().__init__()
        self.vgg = vgg16(weights=None)
        self.vgg.classifier[6] = nn.Linear(4096, classes)
        alike = [_alike(max(side, _SMALLEST) // _SMALLEST) for side in size]
        if any(len(rows) < _POOLED for rows in alike):
            self.vgg.avgpool = _Windows(alike[0], alike[1])
            self.vgg.classifier[0] = _WindowLinear(self.vgg.classifier[0], alike[0], alike[1])

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        high, wide = (max(0, _SMALLEST - side) for side in x.shape[-2:])
        logits: Tensor = self.vgg(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))
        return logits


# --- small images ------------------------------------------------------------------------------------
# torchvision pools the last map adaptively to 7 x 7, whatever its size. An image of 32 x 32 leaves a map of 1 x 1: its
# 512 features come 49 times, and 102 of VGG16's 134 million weights multiply copies. Copies of a feature have the same
# gradient and so take the same optimiser steps. It is enough to compute with the mean weight of each distinct pooling
# window, and to move all weights of a window as their mean moved. The state dict holds torchvision's weights.


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
    """The weights as they are; backward, the gradient of one copy where that of the sum of all copies comes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(copies)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (copies,) = ctx.saved_tensors
        return gradient / copies, None


class _WindowLinear(nn.Linear):
    """The linear layer after the pooling, on distinct windows: ``weight`` [out, C * windows] is the mean over their copies.

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
        """Keep all weights [out, C * 49] and their means, on the CPU: they are needed again when the layer is saved."""
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


# --- ImageNet weights ------------------------------------------------------------------------------


def pretrained_file(spec: NetworkSpec) -> Path:
    """The file with VGG16's ImageNet weights: the one given, else torchvision's in torch's cache.

    Raises HarnessError, which names the option to train from scratch, where there is none and no network.
    """
    if spec.weights is not None:
        path = Path(spec.weights)
        if not path.is_file():
            raise HarnessError(
                f"network.weights: no file '{path}'. Give VGG16's ImageNet weights, or set network.pretrained=false"
            )
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / _FILE
    if not path.is_file():
        from torchvision.models import VGG16_Weights

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                VGG16_Weights.IMAGENET1K_V1.url, str(path), hash_prefix=_SHA256, progress=False
            )
        except (OSError, RuntimeError) as error:
            raise HarnessError(
                f"VGG16's ImageNet weights are not in torch's cache ('{path}') and cannot be downloaded ({error}). "
                "Put the file there, name one with --set network.weights=FILE, "
                "or train from scratch with --set network.pretrained=false"
            ) from error
    return path


def pretrained_digest(spec: NetworkSpec) -> str | None:
    """sha256 of the pretrained weights a study starts from, or None."""
    if not spec.pretrained:
        return None
    with pretrained_file(spec).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_pretrained(body: Vgg16, path: Path) -> None:
    """Fill all layers but the last, whose classes differ."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise HarnessError(f"'{path}' is not a safetensors file: {error}") from error
    else:
        with path.open("rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(_SHA256):
                raise HarnessError(
                    f"'{path}' is not torchvision's {_FILE} (its sha256 differs); other weights come as .safetensors"
                )
        # The one file not in safetensors, known by its digest; weights_only reads tensors and runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    last = ("classifier.6.weight", "classifier.6.bias")
    expected = {name: value.shape for name, value in body.vgg.state_dict().items() if name not in last}
    found = {name: value.shape for name, value in state.items() if name not in last}
    if expected != found:
        wrong = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise HarnessError(
            f"'{path}' does not hold torchvision's VGG16: {len(wrong)} tensors differ, the first is '{wrong[0]}'"
        )
    body.vgg.load_state_dict({name: value for name, value in state.items() if name not in last}, strict=False)
