"""FMN: steps along the margin's gradient in a ball that shrinks and grows around the decision boundary."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from harness.attacks.attack import Attack, Gradients, Norm
from harness.attacks.ball import dual_size, each, nearest, size, unit
from harness.attacks.batch import differentiable, input_gradient, margin
from harness.settings import Count

_LAST_GAMMA = 1e-3
_SMALLEST_STEP = 0.01  # of the first step
_FIRST_STEP = {"linf": 10.0, "l2": 1.0, "l1": 10.0}  # the smallest changes on small networks of digits


class Fmn(Attack):
    """Fast minimum-norm, in linf, l2 or l1: Pintor et al. 2021."""

    model_config = ConfigDict(serialize_by_alias=True)

    title: ClassVar[str] = "FMN"
    revision: ClassVar[int] = 0

    method: Literal["fmn"]
    # ``norm`` is a property of every attack; in a study the setting is called so, too.
    minimized: Literal["linf", "l2", "l1"] = Field(
        "l2", alias="norm", description="the norm that is made small"
    )
    steps: Count = 100
    max_stepsize: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="l2 length of the first step in [0, 1] units, 1 in l2 and 10 otherwise unless given; "
        "falls to a hundredth by a cosine",
    )
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="share by which the ball first shrinks or grows a step; falls to .001 by a cosine"
    )
    gradients: Gradients = "float32"

    @property
    def norm(self) -> Norm:
        return self.minimized

    def cost(self, classes: int, values: int) -> float:
        """One a step: no image ends before the others."""
        return self.steps

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Pintor et al. 2021, algorithm 1.

        Returns the nearest adversarial image met; the clean image where none was met, or where it is one.
        Beyond the paper: in l1 the image is projected onto the ball and [0, 1] at once, so that clamping
        gives nothing of the ball away.
        """
        through = differentiable(network, self.gradients)
        # All images take all steps: there is nothing to refill.
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return [torch.cat([self._nearest(network, through, x, label) for x, label in batches])]

    def _nearest(self, network: nn.Module, through: nn.Module, clean: Tensor, labels: Tensor) -> Tensor:
        """The nearest adversarial images of one batch."""
        largest = size(torch.maximum(clean, 1 - clean), self.norm)  # of any perturbation
        best, best_size = clean.clone(), torch.full_like(largest, torch.inf)
        x, radius = clean, largest
        first_step = self.max_stepsize or _FIRST_STEP[self.norm]
        for step in range(self.steps):
            x = x.detach().requires_grad_()
            logits = through(x)
            distance = margin(logits, labels)
            gradient = input_gradient(-distance.sum(), x)
            with torch.no_grad():
                if through is not network:
                    logits = network(x)
                adversarial = logits.argmax(1) != labels
                now = size(x - clean, self.norm)
                nearer = adversarial & (now < best_size)
                best = torch.where(each(nearer), x, best)
                best_size = torch.where(nearer, now, best_size)

                falling = (1 + math.cos(math.pi * step / self.steps)) / 2
                gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * falling
                steepness = dual_size(gradient, self.norm).clamp(min=torch.finfo(x.dtype).tiny)
                to_boundary = now + distance.abs() / steepness
                outside = torch.where(
                    best_size < torch.inf, radius * (1 + gamma), to_boundary * (1 + self.gamma)
                )
                inside = torch.minimum(radius * (1 - gamma), best_size)
                radius = torch.minimum(torch.where(adversarial, inside, outside), largest)

                length = first_step * (_SMALLEST_STEP + (1 - _SMALLEST_STEP) * falling)
                x = nearest(clean, x - clean + length * unit(gradient), radius, self.norm)
        return best
