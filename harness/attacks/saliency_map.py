"""Saliency map attacks, which change few values: JSMA by ART's rule and by Papernot's."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from harness import seeds
from harness.attacks.attack import Attack, Norm
from harness.attacks.ball import each
from harness.attacks.batch import State, class_count, compacted, input_gradient, looks_every

_TYPICAL_SHARE = 0.06  # of the values that are changed


def _not_zero(value: float) -> float:
    """A step of JSMA must change a pixel, or its loop has no end."""
    if abs(value) < 1e-3:
        raise ValueError("should differ from 0 by at least 0.001")
    return value


Theta = Annotated[float, Field(ge=-1, le=1), AfterValidator(_not_zero)]


def jsma_targets(labels: Tensor, ids: Tensor, classes: int, seed: int) -> Tensor:
    """Classes to reach, int64 [B]: uniform among those other than ``labels``, drawn by (seed, image id)."""
    if classes < 2:
        raise ValueError(f"a target other than the label needs 2 classes, got {classes}")
    draw = seeds.uniform(seed, ids, torch.zeros_like(ids), 1)[:, 0].double()
    return (labels + 1 + (draw * (classes - 1)).long()) % classes


class Jsma(Attack):
    """JSMA by ART's rule: the two free pixels of largest target gradient, reusable, random target."""

    title: ClassVar[str] = "JSMA"
    revision: ClassVar[int] = 0

    method: Literal["jsma"]
    theta: Theta = Field(0.1, description="change of a pixel a step, in [0, 1] units")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="largest share of pixels changed")

    @property
    def norm(self) -> Norm:
        return "l0"

    def cost(self, classes: int, values: int) -> float:
        """One a step, which changes two values."""
        return min(self.gamma, _TYPICAL_SHARE) * values / 2

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """ART's ``SaliencyMapMethod``: not Papernot's, see ``JsmaPairs``.

        Each step moves by theta the two values with the largest gradient of the target's logit among
        those that are not saturated. It ends at the target, when the share of changed values exceeds
        gamma (so by up to two values), or when all are saturated.
        """
        saturated = _saturation(self.theta)
        sign = math.copysign(1, self.theta)

        def step(state: State) -> tuple[State, Tensor]:
            x, clean, target = state["x"].requires_grad_(), state["clean"], state["target"]
            logits = network(x)
            gradient = input_gradient(logits.gather(1, target[:, None]).sum(), x) * sign
            with torch.no_grad():
                free = (x != saturated).flatten(1)
                going = (logits.argmax(1) != target) & free.any(1)
                if self.gamma < 1:
                    share = (x != clean).flatten(1).sum(1).double() / free.shape[1]
                    going &= share <= self.gamma
                pair = gradient.flatten(1).masked_fill(~free, -torch.inf).topk(2, dim=1).indices
                x = torch.where(each(going), _moved(x, pair, self.theta), x)
            return {"x": x, "clean": clean, "target": target}, ~going

        targets = jsma_targets(labels, ids, class_count(network, images), seed)
        start = {"x": images, "clean": images, "target": targets}
        return [compacted(start, batch_size, step, every=looks_every(images.device))]


class JsmaPairs(Attack):
    """JSMA by Papernot et al. 2016, algorithm 3: the pair of largest saliency; saturated pixels leave."""

    title: ClassVar[str] = "JSMA (pairs)"
    revision: ClassVar[int] = 0

    method: Literal["jsma_pairs"]
    theta: Theta = 1.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @property
    def norm(self) -> Norm:
        return "l0"

    def cost(self, classes: int, values: int) -> float:
        """Two a step, which changes two values: the target's, and that of all other classes."""
        return min(self.gamma, _TYPICAL_SHARE) * values

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Papernot et al. 2016, algorithm 3 with the pair search of algorithm 2.

        Each of at most floor(gamma * values / 2) steps moves by theta the pair of values with the largest
        saliency (equation 8, or 9 for negative theta; gradients of logits, as in the paper's section IV).
        Saturated values leave the search domain: with theta = 1 each is used once. It ends at the target
        or where no pair has a positive saliency.
        """
        saturated = _saturation(self.theta)
        sign = math.copysign(1, self.theta)
        most = math.floor(self.gamma * images[0].numel() / 2 + 1e-9)

        def step(state: State) -> tuple[State, Tensor]:
            x, target, count = state["x"].requires_grad_(), state["target"], state["step"] + 1
            logits = network(x)
            wanted = logits.gather(1, target[:, None]).sum()
            toward = input_gradient(wanted, x, keep_graph=True) * sign
            # One pass for all other classes: only their sum counts.
            away = input_gradient(logits.sum() - wanted, x) * -sign
            with torch.no_grad():
                used = x == saturated
                toward, away = toward.masked_fill(used, -torch.inf), away.masked_fill(used, -torch.inf)
                pair, valid = best_pairs(toward.flatten(1), away.flatten(1))
                going = (logits.argmax(1) != target) & valid & (count <= most)
                x = torch.where(each(going), _moved(x, pair, self.theta), x)
            return {"x": x, "target": target, "step": count}, ~going | (count >= most)

        if not most:
            return [images.clone()]
        targets = jsma_targets(labels, ids, class_count(network, images), seed)
        start = {"x": images, "target": targets, "step": torch.zeros_like(targets)}
        return [compacted(start, batch_size, step, every=looks_every(images.device))]


def _moved(x: Tensor, pair: Tensor, theta: float) -> Tensor:
    """``x`` [B, C, H, W] with the pair of values int64 [B, 2] of each image moved by theta."""
    values = x.flatten(1)
    return values.scatter(1, pair, (values.gather(1, pair) + theta).clamp(0, 1)).view_as(x)


def best_pairs(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (p, q) of each row with the largest (a_p + a_q)(c_p + c_q), both factors positive.

    ``a`` and ``c`` are [B, d], -inf where a value is out of the search domain. Returns the pairs,
    int64 [B, 2], and whether there is one, bool [B] (where not, the pair means nothing).

    Exact without looking at all pairs: let p have two others that are at least as good in both a and
    c. One of them is not q, and takes p's place at no loss. So both of some best pair have at most
    one such other, and only values like that (a few dozen of thousands) are paired.
    """
    # Sorted by a, those at least as good in a come before; one of them at most may have a c as large:
    # c must exceed the second largest c before it.
    a, order = a.sort(dim=1, descending=True, stable=True)
    c = c.gather(1, order)
    largest = c.cummax(1).values
    second = torch.minimum(c, _shifted(largest)).cummax(1).values
    position = torch.arange(a.shape[1], 0, -1, device=a.device)
    rank = torch.where(c > _shifted(second), position, 0)
    n = int((rank > 0).sum(1).max().clamp(min=1))
    rank, candidate = rank.topk(n, dim=1)  # in order of a; rows with fewer than n are filled up
    a, c = (value.gather(1, candidate).masked_fill(rank == 0, -torch.inf) for value in (a, c))
    alpha, beta = a[:, :, None] + a[:, None, :], c[:, :, None] + c[:, None, :]
    saliency = torch.where((alpha > 0) & (beta > 0), alpha * beta, 0).triu(diagonal=1)
    value, flat = saliency.flatten(1).max(1)
    return order.gather(1, candidate.gather(1, torch.stack([flat // n, flat % n], 1))), value > 0


def _shifted(values: Tensor) -> Tensor:
    """Each column moved one to the right, -inf in the first: what was known before."""
    return functional.pad(values[:, :-1], (1, 0), value=-torch.inf)


def _saturation(theta: float) -> float:
    """The value at which theta can move a pixel no further."""
    return 1.0 if theta > 0 else 0.0
