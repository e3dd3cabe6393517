"""TRADES: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness import seeds
from harness.defenses.defense import Defense
from harness.defenses.inner import maximised, step_size_of
from harness.networks.objective import Inputs, InTraining, Objective, cross_entropy
from harness.settings import GRID, Count, Epsilon

_START = 0.001  # standard deviation of the start around x (algorithm 1, and the official code)


class Trades(Defense):
    """Cross-entropy on the image, and beta times how far outputs move at most in an l-inf ball (eq. 5)."""

    title: ClassVar[str] = "TRADES"

    method: Literal["trades"] = "trades"
    epsilon: Annotated[Epsilon, *GRID]
    beta: Annotated[float, Field(gt=0, description="1 / lambda of eq. 5, robustness's weight"), *GRID] = 6.0
    steps: Count = Field(10, description="of the inner maximisation, a gradient each (10: the official code)")
    step_size: Epsilon | None = Field(None, description="2.5 epsilon / steps unless given")

    @property
    def samples_per_image(self) -> int:
        return 2

    @property
    def gradients_per_sample(self) -> float:
        return self.steps / 2

    def columns(self) -> dict[str, Any]:
        return {"training_epsilon": self.epsilon}

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """Mean of CE(f(x), y) + beta KL(f(x) || f(x')), where x' maximises the KL (algorithm 1).

        The gradient goes through f(x) and f(x'), as in the official code. x' starts at x + 0.001 N(0, 1),
        which follows from (seed, image id, epoch).
        """
        epsilon, step_size = self.epsilon, step_size_of(self.step_size, self.epsilon, self.steps)
        drawn = seeds.derive(seed, "start")

        def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
            clean, labels, ids = inputs.clean(indices), inputs.labels[indices], inputs.ids[indices]
            draw = ids.new_full(ids.shape, epoch)
            start = clean + _START * seeds.normal(drawn, ids, draw, clean[0].numel()).view_as(clean)
            with network.frozen() as logits:
                with torch.no_grad():
                    target = logits(clean).log_softmax(1)
                adversarial = maximised(
                    lambda x: divergence(target, logits(x).log_softmax(1)),
                    clean,
                    start,
                    epsilon,
                    step_size,
                    self.steps,
                )
            outputs, moved = network(torch.cat([clean, adversarial])).chunk(2)
            kl = divergence(outputs.log_softmax(1), moved.log_softmax(1))
            return cross_entropy(outputs, labels) + self.beta * kl

        return Objective(len(inputs.pixels), loss, is_steady=True)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) [B] of log-probabilities [B, classes]."""
    return (p.exp() * (p - q)).sum(1)
