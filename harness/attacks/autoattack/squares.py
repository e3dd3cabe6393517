"""The squares of the Square attack: where a search starts, and what one square makes of an image.

Words are uniform in (0, 1), drawn for each image: positions first, then a sign for each channel.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from harness.attacks.ball import each, nearest, size
from harness.settings import Norm

_TINY = 1e-12
_MANY = 2**14  # different squares
_TILES = 5  # along each side of the start in l2 and l1
_POWER = {"l2": 2, "l1": 4}  # by which a bump falls from its middle


@dataclass(frozen=True)
class Squares:
    """Squares in a ball of some norm and radius."""

    norm: Norm
    radius: float

    def start_words(self, images: Tensor) -> int:
        """Words of the start of one image like these."""
        channels, height, width = images.shape[1:]
        if self.norm == "linf":
            return channels * width
        tile = _tile(height, width)
        return channels * (height // tile) * (width // tile) + 1

    def words(self, images: Tensor) -> int:
        """Words of one square on an image like these."""
        return images.shape[1] + (2 if self.norm == "linf" else 5)

    def start(self, clean: Tensor, words: Tensor) -> Tensor:
        """Where the search starts, [B, C, H, W]: vertical stripes in linf, tiles of bumps in l2 and l1."""
        count, channels, height, width = clean.shape
        if self.norm == "linf":
            stripes = _signs(words).view(count, channels, 1, width)
            return (clean + self.radius * stripes).clamp(0, 1)
        tile = _tile(height, width)
        rows, columns = height // tile, width // tile
        signs = _signs(words[:, 1:]).view(count, channels, rows, 1, columns, 1)
        bump = _bumps(tile, self.norm, clean.device)[(words[:, 0] > 0.5).long()]
        tiled = signs * bump.view(count, 1, 1, tile, 1, tile)
        top, left = (height - rows * tile) // 2, (width - columns * tile) // 2
        change = torch.zeros_like(clean)
        change[:, :, top : top + rows * tile, left : left + columns * tile] = tiled.reshape(
            count, channels, rows * tile, columns * tile
        )
        return self._on_sphere(clean, change)

    def count(self, images: Tensor, side: int) -> int:
        """How many different squares there are; 0 where that is no small number."""
        channels, height, width = images.shape[1:]
        count = (height - side + 1) * (width - side + 1) * 2**channels
        return count if self.norm == "linf" and count <= _MANY else 0

    def number(self, images: Tensor, words: Tensor, side: int) -> Tensor:
        """Which of the ``count`` squares those of words [B, queries, words] are, [B, queries]."""
        height, width = images.shape[2:]
        top, left = _offsets(words, height - side, width - side)
        up = words[..., 2:] > 0.5
        bits = 2 ** torch.arange(up.shape[-1], device=words.device)
        return (top * (width - side + 1) + left) * 2 ** len(bits) + (up * bits).sum(-1)

    def proposal(self, clean: Tensor, best: Tensor, words: Tensor, side: int) -> Tensor:
        """The best images so far, each with one more square of so many values a side, [B, C, H, W]."""
        if self.norm == "linf":
            return self._corner(clean, best, words, side)
        return self._bump(clean, best, words, side)

    def _corner(self, clean: Tensor, best: Tensor, words: Tensor, side: int) -> Tensor:
        """In linf: each channel of the square at an end of the ball, up or down.

        Adding twice the radius and clamping, as the paper says it, comes to this.
        """
        cells = _cells(clean, words, side)
        ends = clean.flatten(2).gather(2, cells) + self.radius * _signs(words[:, 2:])[:, :, None]
        return best.flatten(2).scatter(2, cells, ends.clamp(0, 1)).view_as(best)

    def _bump(self, clean: Tensor, best: Tensor, words: Tensor, side: int) -> Tensor:
        """In l2 and l1: what a second square holds of the radius moves to the first, in the shape of a bump.

        With it goes what the ball has left; the bump is added to what the first square holds.
        """
        channels, order = clean.shape[1], 2 if self.norm == "l2" else 1
        change = (best - clean).flatten(2)
        here, there = _cells(clean, words, side), _cells(clean, words[:, 2:], side)
        left = (self.radius**order - size(best - clean, self.norm) ** order).clamp(min=0)
        held_here = change.gather(2, here)
        change = change.scatter(2, here, 0)
        held = held_here.norm(p=order, dim=2) ** order + change.gather(2, there).norm(p=order, dim=2) ** order

        bump = _bumps(side, self.norm, clean.device)[(words[:, 4] > 0.5).long()]
        shape = bump.flatten(1)[:, None] * _signs(words[:, 5:])[:, :, None]
        shape = _normalised(shape, order) + _normalised(held_here, order)
        share = (left[:, None] / channels + held) ** (1 / order)
        if self.norm == "l1":
            share = share * channels
        change = change.scatter(2, there, 0).scatter(2, here, _normalised(shape, order) * share[:, :, None])
        return self._on_sphere(clean, change.view_as(clean))

    def _on_sphere(self, clean: Tensor, change: Tensor) -> Tensor:
        """In l2 scaled to the radius and clamped; in l1 the nearest image in the ball."""
        if self.norm == "l2":
            return (clean + change * each(self.radius / size(change, "l2").clamp(min=_TINY))).clamp(0, 1)
        radius = clean.new_full((len(clean),), self.radius)
        return nearest(clean, change, radius, "l1")


def _tile(height: int, width: int) -> int:
    return max(min(height, width) // _TILES, 1)


def _signs(words: Tensor) -> Tensor:
    """-1 or 1."""
    return torch.where(words > 0.5, 1.0, -1.0)


def _cells(images: Tensor, words: Tensor, side: int) -> Tensor:
    """The square's places in a channel of H x W, [B, C, side x side]; every offset is as likely."""
    channels, height, width = images.shape[1:]
    top, left = _offsets(words, height - side, width - side)
    line = torch.arange(side, device=images.device)
    square = (line[:, None] * width + line).flatten()
    return ((top * width + left)[:, None] + square)[:, None].expand(-1, channels, -1)


def _offsets(words: Tensor, last_top: int, last_left: int) -> tuple[Tensor, Tensor]:
    """From words [..., 2 or more], each as likely."""
    return (words[..., 0] * (last_top + 1)).long(), (words[..., 1] * (last_left + 1)).long()


def _normalised(values: Tensor, order: int) -> Tensor:
    """Each channel [B, C, values] with norm 1; zeros stay zeros."""
    return values / values.norm(p=order, dim=2, keepdim=True).clamp(min=_TINY)


@lru_cache(maxsize=64)
def _bumps(side: int, norm: Norm, device: torch.device) -> Tensor:
    """A bump above one below of the other sign, and the same turned, norm 1: [2, side, side]."""
    order = 2 if norm == "l2" else 1
    half = side // 2
    halves = [_rise(half, side, _POWER[norm]), -_rise(side - half, side, _POWER[norm])]
    bump = torch.cat([part / part.norm(p=order).clamp(min=_TINY) for part in halves])
    bump = bump / bump.norm(p=order)
    return torch.stack([bump, bump.T]).to(device)


def _rise(rows: int, columns: int, power: int) -> Tensor:
    """Andriushchenko et al. 2020, equation 2: nested squares around the middle, each 1 / m^power higher."""
    steps = torch.arange(1, max(rows, columns) // 2 + 2) ** -float(power)
    height = steps.flip(0).cumsum(0).flip(0)  # of a value so many places from the middle
    across = (torch.arange(rows) - rows // 2).abs()[:, None]
    along = (torch.arange(columns) - columns // 2).abs()
    return height[torch.maximum(across, along)]
