"""DDN: the direction from the gradient, the norm from whether the last image fooled the network."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.attacks.attack import Attack, Gradients, Norm
from harness.attacks.ball import each, size, unit
from harness.attacks.batch import differentiable, input_gradient
from harness.settings import Count


class Ddn(Attack):
    """Decoupled direction and norm, l2: Rony et al. 2019. A pixel may have any value, not 256 levels."""

    title: ClassVar[str] = "DDN"
    revision: ClassVar[int] = 0

    method: Literal["ddn"]
    steps: Count = 100
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="the norm shrinks or grows by this share a step"
    )
    initial_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="l2 in [0, 1] units")
    gradients: Gradients = "float32"

    @property
    def norm(self) -> Norm:
        return "l2"

    def cost(self, classes: int, values: int) -> float:
        """One a step: no image ends before the others."""
        return self.steps

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Rony et al. 2019, algorithm 1, without its quantisation.

        Each step follows the cross-entropy's gradient, normalised, its length falling from 1 to .01 by a
        cosine, and puts the perturbation at a norm that shrinks by gamma where the last image was
        adversarial and grows by it elsewhere. Returns the nearest adversarial image met; the clean image
        where none was met, or where it is one. A gradient of zero moves nothing (the authors draw a
        direction).
        """
        through = differentiable(network, self.gradients)
        # All images take all steps: there is nothing to refill.
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return [torch.cat([self._nearest(network, through, x, label) for x, label in batches])]

    def _nearest(self, network: nn.Module, through: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The nearest adversarial images of one batch."""
        best = images.clone()
        best_norm = images.new_full((len(images),), torch.inf)
        norm = images.new_full((len(images),), self.initial_norm)
        largest = size(torch.maximum(images, 1 - images), "l2")  # of any perturbation
        delta = torch.zeros_like(images)
        for step in range(self.steps):
            x = (images + delta).requires_grad_()
            logits = through(x)
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            gradient = input_gradient(loss, x)
            with torch.no_grad():
                if through is not network:
                    logits = network(x)
                adversarial = logits.argmax(1) != labels
                now = size(delta, "l2")
                nearer = adversarial & (now < best_norm)
                best = torch.where(each(nearer), x, best)
                best_norm = torch.where(nearer, now, best_norm)
                length = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
                delta = delta + length * unit(gradient)
                change = torch.where(adversarial, 1 - self.gamma, 1 + self.gamma)
                norm = torch.minimum(norm * change, largest)
                delta = (images + each(norm) * unit(delta)).clamp(0, 1) - images
        return best
