"""Carlini & Wagner's attack."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.attacks.attack import Attack, Gradients, Norm
from harness.attacks.ball import each
from harness.attacks.batch import State, compacted, differentiable, input_gradient, logits, margin
from harness.settings import Count

_TANH_MARGIN = 0.999999  # Carlini's code: pixels at 0 and 1 stay at a finite place of tanh space
_TYPICAL_SHARE = 0.6  # of binary_search_steps x steps


class CwL2(Attack):
    """Carlini & Wagner 2017, l2, with binary search over the constant, each image on its own."""

    title: ClassVar[str] = "C&W (l2)"
    revision: ClassVar[int] = 0

    method: Literal["cw_l2"]
    binary_search_steps: Count = 5
    steps: Count = 200
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    initial_constant: Annotated[float, Field(gt=0)] = 0.1
    confidence: Annotated[float, Field(ge=0)] = 0.0
    warm_start: bool = Field(
        False, description="a constant goes on from the last one's image: a quarter of the steps, e.g. 8 x 32"
    )
    gradients: Gradients = "float32"

    @property
    def norm(self) -> Norm:
        return "l2"

    def cost(self, classes: int, values: int) -> float:
        """Some constants end early."""
        return _TYPICAL_SHARE * self.binary_search_steps * self.steps

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Carlini & Wagner 2017, section VI-A, untargeted, with a binary search over c for each image.

        minimise |x - image|^2 + c * max(logit[label] - max of the others + confidence, 0)
        over w, where x = (tanh(w) + 1) / 2.

        Returns the nearest image met that leaves its label by more than ``confidence``; the clean image
        where none was met, or where it is there already.

        Carlini's code ends a batch's search for a constant when the sum of its losses stalls; here each
        image's ends by its own loss, and it goes on with its next constant at once.

        With ``warm_start`` (not Carlini's) each constant goes on from the last one's w and Adam's means, so
        that a quarter of the steps suffices. As its first images owe their success to the last constant, its
        own success is judged in the second half of its steps; and while nothing succeeds constants grow
        threefold, not tenfold.
        """
        through = differentiable(network, self.gradients)
        check_every = math.ceil(self.steps / 10)
        judged_from = self.steps // 2 if self.warm_start else 0

        def step(s: State) -> tuple[State, Tensor]:
            y = s["w"].tanh()
            x = (y + 1) / 2
            change = x - s["clean"]
            square = change.square().flatten(1).sum(1)
            lead, gradient = self._lead(through, x, s["label"], s["constant"])
            loss = square + s["constant"] * lead.clamp(min=0)
            left = lead < 0
            nearer = left & (square < s["kept_square"])
            if through is not network:
                rows = nearer.nonzero()[:, 0]
                if len(rows):
                    left[rows] = margin(network(x[rows]), s["label"][rows]) + self.confidence < 0
                    nearer = nearer & left
            s["kept"] = torch.where(each(nearer), x, s["kept"])
            s["kept_square"] = torch.where(nearer, square, s["kept_square"])
            s["succeeded"] = s["succeeded"] | left & (s["step"] >= judged_from)
            checked = s["step"] % check_every == 0
            s["step"] = s["step"] + 1
            steps_of_adam = s["step"] + self.steps * s["search"] if self.warm_start else s["step"]
            # Of x = (tanh(w) + 1) / 2.
            gradient = torch.ops.aten.tanh_backward(gradient.add_(change.mul_(2)).div_(2), y)
            _adam(s, gradient, steps_of_adam, self.learning_rate)
            ended = s["step"] == self.steps
            if not self.warm_start:
                ended |= checked & ~(loss <= 0.9999 * s["previous"])
                s["previous"] = torch.where(checked, loss, s["previous"])
            if ended.any():
                s |= _next_constant(s, ended, self.warm_start)
            return s, s["search"] == self.binary_search_steps

        lead = margin(logits(network, images, batch_size), labels) + self.confidence
        attacked = (lead >= 0).nonzero()[:, 0]
        kept = images.clone()
        if len(attacked):
            start = _start(images[attacked], labels[attacked], self.initial_constant)
            with torch.no_grad():
                kept[attacked] = compacted(start, batch_size, step)
        return [kept]

    def _lead(
        self, network: nn.Module, images: Tensor, label: Tensor, constant: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By how much the label leads, with the confidence, [B], and its part of the objective's gradient."""
        with torch.enable_grad():
            x = images.detach().requires_grad_()
            lead = margin(network(x), label) + self.confidence
            gradient = input_gradient((constant * lead.clamp(min=0)).sum(), x)
        return lead.detach(), gradient


def _start(clean: Tensor, label: Tensor, constant: float) -> State:
    """Each image before its first step with its first constant."""
    w = _in_tanh_space(clean)
    infinite = torch.full_like(clean[:, 0, 0, 0], torch.inf)
    zero = torch.zeros_like(label)
    search = {
        "constant": torch.full_like(infinite, constant),
        "lower": torch.zeros_like(infinite),
        "upper": infinite,
        "search": zero,  # constants done with
        "step": zero,  # steps taken with this constant
        "succeeded": zero.bool(),  # with this constant
        "previous": infinite,  # the loss when it was last checked
    }
    adam = {"w": w, "mean": torch.zeros_like(w), "variance": torch.zeros_like(w)}
    return {"clean": clean, "label": label, "kept": clean, "kept_square": infinite} | search | adam


def _adam(state: State, gradient: Tensor, steps: Tensor, learning_rate: float) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1) with its default decay rates; ``steps`` [B] with this one.

    In place; the gradient is used up.
    """
    mean = state["mean"].mul_(0.9).add_(0.1 * gradient)
    variance = state["variance"].mul_(0.999).add_(gradient.square_().mul_(0.001))
    steps = steps.double()
    rate = (learning_rate / (1 - 0.9**steps)).float()
    scale = (1 - 0.999**steps).float()
    state["w"].sub_((each(rate) * mean).div_((variance / each(scale)).sqrt_().add_(1e-8)))


def _next_constant(state: State, ended: Tensor, warm_start: bool) -> State:
    """The binary search (section VI-A): those that ended start anew, at the clean image or where they are."""
    s = dict(state)
    s["upper"] = torch.where(ended & s["succeeded"], s["constant"], s["upper"])
    s["lower"] = torch.where(ended & ~s["succeeded"], s["constant"], s["lower"])
    larger = s["constant"] * (3 if warm_start else 10)
    between = (s["lower"] + s["upper"]) / 2
    following = torch.where(s["upper"].isinf(), larger, between)
    s["constant"] = torch.where(ended, following, s["constant"])
    s["search"] = s["search"] + ended
    s["step"] = s["step"].masked_fill(ended, 0)
    s["succeeded"] = s["succeeded"] & ~ended
    if not warm_start:
        s["w"] = torch.where(each(ended), _in_tanh_space(s["clean"]), s["w"])
        s["mean"] = s["mean"].masked_fill(each(ended), 0)
        s["variance"] = s["variance"].masked_fill(each(ended), 0)
        s["previous"] = s["previous"].masked_fill(ended, torch.inf)
    return s


def _in_tanh_space(images: Tensor) -> Tensor:
    """The w whose (tanh(w) + 1) / 2 is, but for the margin, the image."""
    return ((2 * images - 1) * _TANH_MARGIN).atanh()
