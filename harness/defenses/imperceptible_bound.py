"""The paper's defense (III-C, eq. 4-7): f2 says on x + N(0, sigma_i) what the base network f1 says on x."""

from typing import ClassVar, Literal

from torch import Tensor

from harness.defenses.bound_noise import BoundNoise
from harness.networks.objective import Inputs, InTraining, Needs, Objective, kl_divergence


class ImperceptibleBound(BoundNoise):
    """Consistency with the base network's outputs within the bound: eq. 6."""

    title: ClassVar[str] = "imperceptible bound"
    step: ClassVar[Literal["defense", "baselines"]] = "defense"

    method: Literal["imperceptible_bound"] = "imperceptible_bound"

    def needs(self) -> Needs:
        return Needs(bound=True, base_outputs=True)

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean over i and j of KL(f1(x_i) || f2(x_i + delta_ij)), delta_ij ~ N(0, sigma_i) (eq. 6)."""
        assert inputs.base_outputs is not None, "the defense needs the base network's outputs"
        base_outputs, perturbed = inputs.base_outputs, self.perturbed(inputs, seed)

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            image, x = perturbed(indices, epoch)
            return kl_divergence(base_outputs[image], network(x))

        return Objective(len(inputs.pixels) * self.n, loss, is_steady=True)
