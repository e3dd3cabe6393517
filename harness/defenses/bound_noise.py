"""The noise of the bound's defense: x_i + N(0, sigma_i), n times an image (III-C, eq. 3-5).

What is trained on it may differ, the images do not: all methods have the same draws for the same k and n.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from harness import seeds
from harness.defenses.defense import Defense
from harness.networks.objective import Inputs
from harness.settings import GRID, Count

# The paper's grid (Tables IV to VI), as a default.
_K: Any = (1.0, 2.0, 2.5, 3.0)
_N: Any = (10, 15, 20)

_FUSED_SAMPLES = 2_000_000  # of a training on a GPU: compiling takes 10 s or so, and saves .1 to .8 ms a step

Perturbed = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class BoundNoise(Defense):
    """Settings of a training on perturbations within the bound, and these perturbations."""

    k: Annotated[float, Field(gt=0, description="sigma_i = d_i / (2 k) (eq. 3)"), *GRID] = _K
    n: Annotated[Count, Field(description="perturbations of an image"), *GRID] = _N
    redraw: bool = Field(False, description="draw the perturbations anew each epoch instead of once")

    @property
    def samples_per_image(self) -> int:
        return self.n

    def columns(self) -> dict[str, Any]:
        return {"k": self.k, "n": self.n}

    def draws(self, neighbours: str) -> tuple[str, ...]:
        """One name for all methods, so that they train on the same images in the same order.

        It is the first name of the bound's defense, so that draws stay what they were.
        """
        return ("vib", *map(repr, (self.k, self.n, self.redraw, neighbours)))

    def perturbed(self, inputs: Inputs, seed: int) -> Perturbed:
        """A function (samples int64 [B], epoch) -> (positions int64 [B], images float32 [B, C, H, W]).

        Sample i + j N is the j-th perturbation of the image at position i of N, x_i + N(0, sigma_i). The n
        perturbations of an image are drawn once and come back in every epoch (``redraw`` draws anew). Each
        follows from (seed, image id, j), so that n copies of the images are never held. Nothing is clipped to
        [0, 1]: eq. 4 does not.
        """
        assert inputs.distance is not None, "the noise needs the bound"
        images, shape = len(inputs.pixels), inputs.pixels.shape[1:]
        sigma = inputs.distance / (2 * self.k)
        perturbation = seeds.derive(seed, "perturbation")
        fused = images * self.n * self.epochs >= _FUSED_SAMPLES

        def of(samples: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
            image, draw = samples % images, samples // images
            if self.redraw:
                draw = draw + (epoch - 1) * self.n
            noise = seeds.normal(perturbation, inputs.ids[image], draw, shape.numel(), fused).view(-1, *shape)
            return image, inputs.clean(image) + sigma[image].view(-1, 1, 1, 1) * noise

        return of
