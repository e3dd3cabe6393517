"""The balls that attacks keep images in: sizes of changes, and the nearest change of a given size.

Changes are float32 [B, C, H, W], sizes and radii [B] of all values of an image.
"""

import torch
from torch import Tensor

from harness.settings import Norm

_HALVINGS = 20  # of the bracket of a threshold; what remains is solved for
_ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


def size(change: Tensor, norm: Norm) -> Tensor:
    """The norm (linf, l2 or l1) of each image's change, [B]."""
    return change.flatten(1).norm(p=_ORDERS[norm], dim=1)


def dual_size(gradient: Tensor, norm: Norm) -> Tensor:
    """The dual norm [B]: by how much a change of size 1 in ``norm`` raises what the gradient is of."""
    return gradient.flatten(1).norm(p=_DUAL[norm], dim=1)


def each(values: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1], to stand beside images."""
    return values[:, None, None, None]


def unit(change: Tensor) -> Tensor:
    """Each image's change divided by its l2; zeros stay zeros.

    By the largest value first: squares of 1e-23 vanish in float32.
    """
    tiny = torch.finfo(change.dtype).tiny
    scaled = change / each(size(change, "linf").clamp(min=tiny))
    return scaled / each(size(scaled, "l2").clamp(min=tiny))


def nearest(clean: Tensor, change: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """The images within ``radius`` [B] of the clean ones, in [0, 1], nearest to clean + change.

    Exactly so for linf and l1; in l2 the change is scaled to the radius and the image clamped.
    """
    if norm == "linf":
        change = change.clamp(-each(radius), each(radius))
    elif norm == "l2":
        length = size(change, "l2")
        change = change * each((radius / length.clamp(min=1e-12)).clamp(max=1))
    else:
        change = _nearest_l1(clean, change, radius)
    return (clean + change).clamp(0, 1)


def _nearest_l1(clean: Tensor, change: Tensor, radius: Tensor) -> Tensor:
    """Croce & Hein 2021 (arXiv 2103.01208), proposition 2.1: the l1 ball and the box [0, 1] at once.

    Every value's change shrinks by the same threshold, between 0 and what the box has room for; the
    threshold is 0 where the sum of changes is not above the radius, else such that it equals the radius.
    """
    length = change.abs().flatten(1)
    room = torch.where(change > 0, 1 - clean, clean).flatten(1)

    def shrunk(threshold: Tensor) -> Tensor:
        return torch.minimum((length - threshold[:, None]).clamp(min=0), room)

    low, high = torch.zeros_like(radius), length.amax(1)
    high = torch.where(shrunk(low).sum(1) <= radius, low, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = shrunk(middle).sum(1) <= radius
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    # No value begins or ceases to shrink within so small a bracket: the sum is linear in the threshold.
    kept = shrunk(high)
    sliding = ((kept > 0) & (kept < room)).sum(1).clamp(min=1)
    threshold = torch.maximum(high - (radius - kept.sum(1)) / sliding, low)
    return (shrunk(threshold).view_as(change)) * change.sign()
