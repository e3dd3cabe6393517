"""APGD: projected gradient ascent that finds its step size by itself, on two losses."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness.attacks.attack import Attack, Gradients
from harness.attacks.autoattack.ascent import Search
from harness.attacks.autoattack.radii import Radii
from harness.attacks.batch import State, differentiable, logits
from harness.settings import Count


class ApgdCe(Radii, Attack):
    """APGD on the cross-entropy: Croce and Hein 2020; in l1 Croce and Hein 2021."""

    title: ClassVar[str] = "APGD-CE"
    revision: ClassVar[int] = 0

    method: Literal["apgd_ce"]
    steps: Count = Field(100, description="of each start")
    restarts: Count = Field(1, description="starts tried on an image until one fools it")
    gradients: Gradients = "float32"

    def cost(self, classes: int, values: int) -> float:
        """All steps of all starts, as if none fooled before."""
        return (self.steps + 1) * self.restarts * len(self.epsilon)

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Croce and Hein 2020, algorithm 1, on the cross-entropy of the label: see ``Search``."""

        def loss(outputs: Tensor, state: State) -> Tensor:
            return functional.cross_entropy(outputs, state["label"], reduction="none")

        through = differentiable(network, self.gradients)
        state = {"clean": images, "label": labels, "id": ids}
        search = Search(network, through, loss, self.norm, self.steps, self.restarts, seed, batch_size)
        return [search.run(state, epsilon) for epsilon in self.epsilon]


class ApgdT(Radii, Attack):
    """Targeted APGD on the difference of logits ratio: Croce and Hein 2020; in l1 Croce and Hein 2021."""

    title: ClassVar[str] = "APGD-T"
    revision: ClassVar[int] = 0

    method: Literal["apgd_t"]
    steps: Count = Field(100, description="towards each class")
    targets: Count = Field(9, description="classes aimed at, the likeliest first; at most all others")
    gradients: Gradients = "float32"

    def cost(self, classes: int, values: int) -> float:
        """All steps towards all classes, as if none fooled before."""
        return (self.steps + 1) * min(self.targets, classes - 1) * len(self.epsilon)

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Croce and Hein 2020, algorithm 1, on equation 7 for one target after the other.

        The likeliest classes are those of the clean image's largest logits, but for the label.
        """
        outputs = logits(network, images, batch_size)
        others = outputs.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        count = min(self.targets, outputs.shape[1] - 1)
        through = differentiable(network, self.gradients)
        state = {"clean": images, "label": labels, "id": ids, "targets": others[:, :count]}
        search = Search(network, through, _targeted, self.norm, self.steps, count, seed, batch_size)
        return [search.run(state, epsilon) for epsilon in self.epsilon]


def _targeted(outputs: Tensor, state: State) -> Tensor:
    """How far the run's target is above the label, as a share of the spread of the largest logits (eq. 7).

    Below four classes there is no such spread: the difference itself.
    """
    run = state["run"].clamp(max=state["targets"].shape[1] - 1)
    target = state["targets"].gather(1, run[:, None])
    lead = (outputs.gather(1, target) - outputs.gather(1, state["label"][:, None]))[:, 0]
    if outputs.shape[1] < 4:
        return lead
    largest = outputs.topk(4, dim=1).values
    return lead / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)
