"""PGD training: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from harness import seeds
from harness.defenses.defense import Defense
from harness.defenses.inner import maximised, step_size_of
from harness.networks.objective import Inputs, InTraining, Objective, cross_entropy
from harness.settings import GRID, Count, Epsilon


class PgdTraining(Defense):
    """Cross-entropy on the images that maximise it in an l-inf ball, as far as PGD finds them (eq. 2.1)."""

    title: ClassVar[str] = "PGD training"

    method: Literal["pgd_training"] = "pgd_training"
    epsilon: Annotated[Epsilon, *GRID]
    steps: Count = Field(7, description="of the inner maximisation, a gradient each (7: Madry's on CIFAR-10)")
    step_size: Epsilon | None = Field(None, description="2.5 epsilon / steps unless given")

    @property
    def gradients_per_sample(self) -> float:
        return self.steps

    def columns(self) -> dict[str, Any]:
        return {"training_epsilon": self.epsilon}

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean cross-entropy of x', which starts at x + U(-epsilon, epsilon) and follows the gradient's sign.

        The start follows from (seed, image id, epoch).
        """
        epsilon, step_size = self.epsilon, step_size_of(self.step_size, self.epsilon, self.steps)
        drawn = seeds.derive(seed, "start")

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            clean, labels, ids = inputs.clean(indices), inputs.labels[indices], inputs.ids[indices]
            draw = ids.new_full(ids.shape, epoch)
            noise = seeds.uniform(drawn, ids, draw, clean[0].numel()).view_as(clean)
            start = (clean + epsilon * (2 * noise - 1)).clamp(0, 1)
            with network.frozen() as logits:
                adversarial = maximised(
                    lambda x: cross_entropy(logits(x), labels), clean, start, epsilon, step_size, self.steps
                )
            return cross_entropy(network(adversarial), labels)

        return Objective(len(inputs.pixels), loss, is_steady=True)
