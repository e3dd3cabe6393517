"""What the bound's defense does without one of its parts: trainings that tell what a part is worth.

A control is no defense. Where it does as well, the part that it leaves out explains nothing.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from harness.defenses.bound_noise import BoundNoise
from harness.defenses.defense import Defense
from harness.networks.objective import (
    Inputs,
    InTraining,
    Needs,
    Objective,
    cross_entropy,
    kl_divergence,
)
from harness.settings import GRID, Count


class NoNoise(Defense):
    """The defense's own loss without noise: eq. 6 with sigma = 0."""

    title: ClassVar[str] = "no noise"

    method: Literal["no_noise"] = "no_noise"
    n: Annotated[Count, Field(description="times that an epoch sees an image"), *GRID]

    @property
    def samples_per_image(self) -> int:
        return self.n

    def needs(self) -> Needs:
        return Needs(base_outputs=True)

    def columns(self) -> dict[str, Any]:
        return {"n": self.n}

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean over the images of KL(f1(x) || f2(x)), each n times an epoch, as often as the defense's.

        Nothing is to be learned: f1 is the optimum, with loss 0. What changes is rounding error, which Adam
        divides by its own size, so that the network drifts.
        """
        assert inputs.base_outputs is not None, "the control needs the base network's outputs"
        images, base_outputs = len(inputs.pixels), inputs.base_outputs

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            image = indices % images
            return kl_divergence(base_outputs[image], network(inputs.clean(image)))

        return Objective(images * self.n, loss, is_steady=True)


class NoiseLabels(BoundNoise):
    """The defense's noise with labels in place of the base network's outputs."""

    title: ClassVar[str] = "noise with labels"

    method: Literal["noise_labels"] = "noise_labels"

    def needs(self) -> Needs:
        return Needs(bound=True)

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean cross-entropy of x_i + N(0, sigma_i), n draws an image: the defense's for the same k and n."""
        perturbed = self.perturbed(inputs, seed)

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            image, x = perturbed(indices, epoch)
            return cross_entropy(network(x), inputs.labels[image])

        return Objective(len(inputs.pixels) * self.n, loss, is_steady=True)
