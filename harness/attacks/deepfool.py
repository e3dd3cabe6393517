"""DeepFool."""

from bisect import bisect_right
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.attacks.attack import Attack, Gradients, Norm
from harness.attacks.ball import each
from harness.attacks.batch import State, compacted, differentiable, input_gradient, logits
from harness.settings import Count

_TOLERANCE = 1e-7  # keeps ART's (10e-8) divisions finite where two classes have equal gradients
_MARGIN = 1e-4  # the authors' code: what each step goes beyond the boundary that it sees
_FAR = 4.0  # a class that was so many times as far as the nearest is passed over
_FEW = 2  # images with no more classes to look at than this have backward passes of their own
_TYPICAL_STEPS = 4


class DeepFool(Attack):
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, over all classes."""

    title: ClassVar[str] = "DeepFool"
    revision: ClassVar[int] = 1

    method: Literal["deepfool"]
    steps: Count = 100
    overshoot: Annotated[float, Field(ge=0, le=1)] = Field(
        1e-6, description="ART's default, the paper's; .02 survives rounding"
    )
    rule: Literal["art", "authors"] = Field(
        "art", description="overshoot at the end, or (the authors' code, Foolbox) at every step"
    )
    gradients: Gradients = "float32"

    @property
    def norm(self) -> Norm:
        return "l2"

    def cost(self, classes: int, values: int) -> float:
        """A gradient of each class a step."""
        return min(self.steps, _TYPICAL_STEPS) * classes

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Moosavi-Dezfooli et al. 2016, algorithm 2, over all classes, each step clipped to [0, 1].

        By ART's rule the overshoot stretches the total perturbation at the end. By the authors' code, and
        Foolbox's, it stretches every image on the way, which ends sooner. An image that the network does
        not put in ``labels`` is left as it is.

        A step uses the nearest class's gradient alone; nearly all time goes into finding it. A class is
        passed over while its distance is more than four times the nearest's, by the length that its gradient
        last had; by the longest of the image's known ones where it was not looked at before, so that at
        first the logits decide. That gradient would have to be four times as long at once.
        """
        through = differentiable(network, self.gradients)

        def step(state: State) -> tuple[State, Tensor]:
            s = dict(state)
            leads = _leads(s["logits"], s["label"])
            distance = leads / (_expected(s["length"]) + _TOLERANCE)
            wanted = distance <= _FAR * distance.amin(1, keepdim=True)
            change, length = torch.empty_like(s["x"]), s["length"].clone()
            for rows, most in _groups(wanted, batch_size):
                change[rows], length[rows] = self._to_nearest(
                    through, s["x"][rows], s["label"][rows], leads[rows], wanted[rows], length[rows], most
                )
            s["length"], s["total"] = length, s["total"] + change
            # ART clips what it goes on from; the authors' code what it shows to the network.
            x = s["x"] + change if self.rule == "art" else s["clean"] + (1 + self.overshoot) * s["total"]
            s["x"] = x.clamp(0, 1)
            s["step"] = s["step"] + 1
            s["logits"] = logits(network, s["x"], batch_size)
            left = s["logits"].argmax(1) != s["label"]
            return s, left | (s["step"] == self.steps)

        moved = images.clone()
        first = logits(network, images, batch_size)
        rows = (first.argmax(1) == labels).nonzero()[:, 0]
        if len(rows):
            start = {
                "x": images[rows],
                "clean": images[rows],
                "total": torch.zeros_like(images[rows]),
                "label": labels[rows],
                "logits": first[rows],
                "length": torch.full_like(first[rows, 1:], torch.inf),  # of each other class's last gradient
                "step": torch.zeros_like(rows),
            }
            # All take their first step together: it looks at more classes than the others.
            state, done = step(start)
            moved[rows] = state["x"]
            going = (~done).nonzero()[:, 0]
            if len(going):
                state = {name: value[going] for name, value in state.items()}
                moved[rows[going]] = compacted(state, batch_size, step)
        if self.rule == "art":
            moved = (images + (1 + self.overshoot) * (moved - images)).clamp(0, 1)
        return [moved]

    def _to_nearest(
        self,
        network: nn.Module,
        x: Tensor,
        labels: Tensor,
        leads: Tensor,
        wanted: Tensor,
        length: Tensor,
        most: int,
    ) -> tuple[Tensor, Tensor]:
        """The step to the nearest linearised boundary [B, C, H, W], and the lengths that gradients last had.

        ``leads`` over the other classes, at which of them to look (``wanted``, at ``most`` so many of an
        image) and the gradients' ``length`` are [B, classes - 1].
        """
        # The wanted ones first; an image that wants fewer than another is filled up with others, which don't
        # count.
        order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        x.requires_grad_()
        outputs = _leads(network(x), labels).gather(1, order)
        gradients = [input_gradient(-outputs[:, k].sum(), x, keep_graph=k < most - 1) for k in range(most)]
        w = torch.stack(gradients, 1)
        with torch.no_grad():
            f = leads.gather(1, order)
            counts = wanted.gather(1, order)
            size = w.flatten(2).norm(dim=2)
            length = length.scatter(1, order, torch.where(counts, size, length.gather(1, order)))
            nearest = (f / (size + _TOLERANCE)).masked_fill(~counts, torch.inf).argmin(1)
            rows = torch.arange(len(x), device=x.device)
            f, size, w = f[rows, nearest], size[rows, nearest], w[rows, nearest]
            stride = f / (size**2 + _TOLERANCE) if self.rule == "art" else (f / size + _MARGIN) / size
            return each(stride) * w, length


def _expected(length: Tensor) -> Tensor:
    """Gradients' lengths [B, classes - 1]; for one not known (inf) the image's longest, 1 where none is."""
    known = length < torch.inf
    longest = length.masked_fill(~known, 0).amax(1, keepdim=True)
    return torch.where(known, length, torch.where(longest > 0, longest, 1.0))


def _groups(wanted: Tensor, batch_size: int) -> list[tuple[Tensor, int]]:
    """Images that share passes: their rows, at most ``batch_size``, and how many classes one of them wants.

    ``wanted`` is bool [B, classes - 1]. Images that want many classes share none with those that want few.
    """
    counts = wanted.sum(1).tolist()  # the host waits once
    ordered = sorted(range(len(counts)), key=lambda row: counts[row])
    few = bisect_right(ordered, _FEW, key=lambda row: counts[row])
    parts = [
        part[begin : begin + batch_size]
        for part in (ordered[:few], ordered[few:])
        for begin in range(0, len(part), batch_size)
    ]
    return [(torch.tensor(sorted(part), device=wanted.device), counts[part[-1]]) for part in parts]


def _leads(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above each other one, [B, classes - 1]."""
    ranks = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    others = ranks + (ranks >= labels[:, None])
    return logits.gather(1, labels[:, None]) - logits.gather(1, others)
