"""The paper's defense (III-C, eq. 4-7): f2 says on x + N(0, sigma_i) what the base network f1 says on x."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness import seeds
from harness.defenses.defense import Defense
from harness.networks.objective import Inputs, InTraining, Needs, Objective
from harness.settings import GRID, Count

# The paper's grid (Tables IV to VI), as a default.
_K: Any = (1.0, 2.0, 2.5, 3.0)
_N: Any = (10, 15, 20)


class ImperceptibleBound(Defense):
    """Consistency with the base network's outputs within the bound: eq. 6."""

    title: ClassVar[str] = "imperceptible bound"
    step: ClassVar[Literal["defense", "baselines"]] = "defense"

    method: Literal["imperceptible_bound"] = "imperceptible_bound"
    k: Annotated[float, Field(gt=0, description="sigma_i = d_i / (2 k) (eq. 3)"), *GRID] = _K
    n: Annotated[Count, Field(description="perturbations of an image"), *GRID] = _N
    redraw: bool = Field(False, description="draw the perturbations anew each epoch instead of once")

    @property
    def samples_per_image(self) -> int:
        return self.n

    def needs(self) -> Needs:
        return Needs(bound=True, base_outputs=True)

    def columns(self) -> dict[str, Any]:
        return {"k": self.k, "n": self.n}

    def draws(self, neighbours: str) -> tuple[str, ...]:
        """The method's first name, so that draws stay what they were."""
        return ("vib", *map(repr, (self.k, self.n, self.redraw, neighbours)))

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean over i and j of KL(f1(x_i) || f2(x_i + delta_ij)), delta_ij ~ N(0, sigma_i) (eq. 6).

        The n perturbations of an image are drawn once and come back in every epoch (``redraw`` draws anew).
        Each follows from (seed, image id, j), so that n copies of the images are never held. Nothing is
        clipped to [0, 1]: eq. 4 does not.
        """
        assert inputs.distance is not None and inputs.base_outputs is not None, (
            "the defense needs the bound and the base network's outputs"
        )
        images, shape = len(inputs.pixels), inputs.pixels.shape[1:]
        n, base_outputs = self.n, inputs.base_outputs
        sigma = inputs.distance / (2 * self.k)
        perturbation = seeds.derive(seed, "perturbation")

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            image, draw = indices % images, indices // images
            if self.redraw:
                draw = draw + (epoch - 1) * n
            noise = seeds.normal(perturbation, inputs.ids[image], draw, shape.numel()).view(-1, *shape)
            logits = network(inputs.clean(image) + sigma[image].view(-1, 1, 1, 1) * noise)
            outputs = F.log_softmax(logits, dim=1)
            return F.kl_div(outputs, base_outputs[image], reduction="none", log_target=True).sum(1)

        return Objective(images * n, loss)
