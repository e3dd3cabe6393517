"""Ensemble adversarial training: Tramèr et al., ICLR 2018."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from harness import seeds
from harness.defenses.defense import Defense
from harness.defenses.inner import gradient_sign
from harness.networks.objective import Inputs, InTraining, Needs, Objective, cross_entropy
from harness.settings import GRID, Epsilon


class Ensemble(Defense):
    """Single-step images made on the network in training or on a fixed one (section 3.3).

    A network that only sees its own learns to make them weak. The fixed ones are the base networks of the
    study's other seeds.
    """

    title: ClassVar[str] = "ensemble adversarial training"

    method: Literal["ensemble"] = "ensemble"
    epsilon: Annotated[Epsilon, *GRID]

    @property
    def samples_per_image(self) -> int:
        return 2

    @property
    def gradients_per_sample(self) -> float:
        return 0.5

    def needs(self) -> Needs:
        return Needs(other_bases=True)

    def columns(self) -> dict[str, Any]:
        return {"training_epsilon": self.epsilon}

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean of the cross-entropies of x and of x + epsilon sign(gradient of a network's loss at x).

        Which network's gradient is drawn for a whole global batch, by (seed, epoch, batch), each as likely.
        As in the authors' code it is the gradient at that network's own prediction, which leaks no label
        into the image; the loss is at the true label y.
        """
        assert inputs.other_bases, "needs a base network of another seed"
        sources = (None, *inputs.other_bases)  # None: the network in training

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            clean, labels = inputs.clean(indices), inputs.labels[indices]
            source = seeds.generator(seed, "source", epoch, network.batch).integers(len(sources))
            with network.frozen(sources[source]) as logits:
                with torch.no_grad():
                    predicted = logits(clean).argmax(1)
                direction = gradient_sign(lambda x: cross_entropy(logits(x), predicted), clean)
            adversarial = (clean + self.epsilon * direction).clamp(0, 1)
            outputs, moved = network(torch.cat([clean, adversarial])).chunk(2)
            return (cross_entropy(outputs, labels) + cross_entropy(moved, labels)) / 2

        return Objective(len(inputs.pixels), loss)
