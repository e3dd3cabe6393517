"""DeepFool."""

from typing import Literal

import torch
from torch import Tensor, nn

from harness.attacks.compaction import State, compacted
from harness.attacks.gradients import differentiable, input_gradient, logits
from harness.spec import DeepFool

_TOLERANCE = 1e-7  # keeps ART's (10e-8) divisions finite where two classes have equal gradients
_MARGIN = 1e-4  # the authors' code: what each step goes beyond the boundary that it sees
_FAR = 4.0  # a class that was so many times as far as the nearest is passed over
_FEW = 2  # images with no more classes to look at than this have backward passes of their own


def deepfool(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: DeepFool,
    seed: int,
    batch_size: int,
) -> list[Tensor]:
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, algorithm 2, over all classes, each step clipped to [0, 1].

    By ART's rule the overshoot stretches the total perturbation at the end. By the authors' code, and
    Foolbox's, it stretches every image on the way, which ends sooner. An image that the network does
    not put in ``labels`` is left as it is.

    A step uses the nearest class's gradient alone; nearly all time goes into finding it. The first step
    looks at all classes. After it one is passed over while its distance, by the length that its gradient
    last had, is more than four times the nearest's: that gradient would have to grow fourfold at once.
    """
    through = differentiable(network, settings.gradients)

    def step(state: State) -> tuple[State, Tensor]:
        s = dict(state)
        f = _leads(s["logits"], s["label"])
        distance = f / (s["length"] + _TOLERANCE)
        wanted = distance <= _FAR * distance.amin(1, keepdim=True)
        # Images that need all gradients share no passes with those that need one.
        few, change = wanted.sum(1) <= _FEW, torch.empty_like(s["x"])
        for rows in (few.nonzero()[:, 0], (~few).nonzero()[:, 0]):
            if len(rows):
                part = (value[rows] for value in (s["x"], s["label"], f, wanted, s["length"]))
                change[rows], s["length"][rows] = _to_nearest(through, settings.rule, *part)
        s["total"] = s["total"] + change
        # ART clips what it goes on from; the authors' code what it shows to the network.
        x = s["x"] + change if settings.rule == "art" else s["clean"] + (1 + settings.overshoot) * s["total"]
        s["x"], s["steps"] = x.clamp(0, 1), s["steps"] + 1
        s["logits"] = logits(network, s["x"], batch_size)
        return s, (s["logits"].argmax(1) != s["label"]) | (s["steps"] == settings.steps)

    moved, found = images.clone(), logits(network, images, batch_size)
    staying = (found.argmax(1) == labels).nonzero()[:, 0]
    if len(staying):
        clean, steps, length = (
            images[staying],
            torch.zeros_like(staying),
            torch.full_like(found[staying, 1:], torch.inf),
        )
        start = {
            "x": clean,
            "clean": clean,
            "total": torch.zeros_like(clean),
            "label": labels[staying],
            "logits": found[staying],
        }
        moved[staying] = compacted(start | {"length": length, "steps": steps}, batch_size, step)["x"]
    return [
        moved
        if settings.rule == "authors"
        else (images + (1 + settings.overshoot) * (moved - images)).clamp(0, 1)
    ]


def _leads(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above each other one, [B, classes - 1]."""
    ranks = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    return logits.gather(1, labels[:, None]) - logits.gather(1, ranks + (ranks >= labels[:, None]))


def _to_nearest(
    network: nn.Module,
    rule: Literal["art", "authors"],
    x: Tensor,
    labels: Tensor,
    f: Tensor,
    wanted: Tensor,
    length: Tensor,
) -> tuple[Tensor, Tensor]:
    """The step to the nearest linearised boundary [B, C, H, W], and the gradients' lengths [B, classes - 1] as far as they are known.

    ``f`` are the leads over the other classes and ``wanted`` says at which to look, both [B, classes - 1].
    """
    # The wanted ones first; an image that wants fewer than another is filled up with some that don't count.
    order = wanted.sort(dim=1, descending=True, stable=True).indices[:, : int(wanted.sum(1).max())]
    x.requires_grad_()
    leads, last = _leads(network(x), labels).gather(1, order), order.shape[1] - 1
    w = torch.stack([input_gradient(-leads[:, k].sum(), x, keep_graph=k < last) for k in range(last + 1)], 1)
    with torch.no_grad():
        f, counts, size, rows = (
            f.gather(1, order),
            wanted.gather(1, order),
            w.flatten(2).norm(dim=2),
            torch.arange(len(x), device=x.device),
        )
        length = length.scatter(1, order, torch.where(counts, size, length.gather(1, order)))
        nearest = (f / (size + _TOLERANCE)).masked_fill(~counts, torch.inf).argmin(1)
        f, size, w = f[rows, nearest], size[rows, nearest], w[rows, nearest]
        stride = f / (size**2 + _TOLERANCE) if rule == "art" else (f / size + _MARGIN) / size
        return stride[:, None, None, None] * w, length
