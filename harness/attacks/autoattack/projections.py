"""Smallest changes that bring images onto a hyperplane and leave every value in [0, 1]."""

import torch
from torch import Tensor

from harness.attacks.autoattack.radii import PNorm


def onto_hyperplane(norm: PNorm, points: Tensor, normals: Tensor, values: Tensor) -> Tensor:
    """The smallest changes d, [B, n], with values + normals . d = 0 and points + d in [0, 1].

    ``points`` [B, n] in [0, 1], ``normals`` [B, n], ``values`` [B] of the linear functions at the points; all
    of one floating type. Where the box does not reach the hyperplane, d leads to the points of the box that
    are nearest to it. Along coordinates of weight zero nothing moves. Croce and Hein 2020, section 2.3.
    """
    # Scaled: squares of small gradients would vanish in float32.
    largest = normals.abs().amax(1).clamp(min=torch.finfo(normals.dtype).tiny)
    needed = values.abs() / largest
    downhill = -normals * values.sign()[:, None]
    weight = normals.abs() / largest[:, None]
    room = torch.where(downhill > 0, 1 - points, points)
    if norm == "l1":
        moved = _dearest_first(weight, room, needed)
    else:
        pace = torch.ones_like(weight) if norm == "linf" else weight
        moved = torch.minimum(_scale(weight, pace, room, needed)[:, None] * pace, room)
    return torch.where(weight > 0, moved, 0) * downhill.sign()


def _scale(weight: Tensor, pace: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """The smallest s, [B], with sum_i weight_i min(s pace_i, room_i) = needed; huge where there is none.

    The sum is concave and piecewise linear in s: Newton's steps from s = 0 never pass the solution, and
    each but the last finds coordinates that are out of room. Those never become free again, so a row that
    is solved stays the same to the bit while others go on.
    """
    tiny = torch.finfo(weight.dtype).tiny
    gain, full = weight * pace, weight * room
    free = (weight > 0) & (room > 0)
    scale = torch.zeros_like(needed)
    while True:
        rest = needed - torch.where(free, 0, full).sum(1)
        scale = torch.maximum(scale, rest / torch.where(free, gain, 0).sum(1).clamp(min=tiny))
        still_free = free & (scale[:, None] * pace < room)
        if torch.equal(still_free, free):
            return scale
        free = still_free


def _dearest_first(weight: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """How far each coordinate moves, [B, n], where those of the largest weight use up their room first."""
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    full = weight * room
    rest = needed[:, None] - (full.cumsum(1) - full)  # what those before leave to do
    moved = torch.minimum((rest / weight).clamp(min=0), room)
    return torch.empty_like(moved).scatter_(1, order, moved)
