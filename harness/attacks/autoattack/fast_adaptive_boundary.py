"""Targeted FAB: steps to where the boundary seems to be, drawn back towards the image."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import seeds
from harness.attacks.attack import Attack, Gradients
from harness.attacks.autoattack.projections import onto_hyperplane
from harness.attacks.autoattack.radii import Radii
from harness.attacks.ball import each, size
from harness.attacks.batch import State, compacted, differentiable, input_gradient, logits, may_leave
from harness.settings import Count


class FabT(Radii, Attack):
    """Targeted fast adaptive boundary attack: Croce and Hein 2020, as AutoAttack runs it.

    It looks for the smallest change, towards one other class after the other, and ends at an image where it
    finds one within ``epsilon``. Images without one, and those that have left their label, stay as they are.
    """

    title: ClassVar[str] = "FAB-T"
    revision: ClassVar[int] = 0

    method: Literal["fab_t"]
    steps: Count = Field(100, description="of each start")
    targets: Count = Field(9, description="classes aimed at, the likeliest first; at most all others")
    restarts: Count = Field(1, description="starts towards each class: the image, then points near it")
    alpha_max: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="largest pull to the image")
    eta: Annotated[float, Field(ge=1)] = Field(1.05, description="overshoot over the boundary")
    beta: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="share kept of a change that fools")
    gradients: Gradients = "float32"

    def cost(self, classes: int, values: int) -> float:
        """A gradient and half as much again, to decide, each step of each start: as if none were fooled."""
        starts = min(self.targets, classes - 1) * self.restarts
        return 1.5 * self.steps * starts * len(self.epsilon)

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Croce and Hein 2020, algorithm 1, with the boundary between label and target alone (section 2.5).

        Random starts are drawn by (seed, image id, start). What fools is decided in float32, and counts
        within epsilon of the image, whatever the class that the network takes it for.
        """
        outputs = logits(network, images, batch_size)
        others = outputs.scatter(1, labels[:, None], -torch.inf)
        targets = others.argsort(dim=1, descending=True, stable=True)[
            :, : min(self.targets, others.shape[1] - 1)
        ]
        going = torch.arange(len(images), device=images.device)
        if may_leave(network):
            going = going[outputs.argmax(1) == labels]
        results = []
        for epsilon in self.epsilon:
            moved = images.clone()
            if len(going):
                state = {"clean": images, "label": labels, "id": ids, "targets": targets}
                state = {name: value[going] for name, value in state.items()}
                moved[going] = self._within(network, state, epsilon, seed, batch_size)
            results.append(moved)
        return results

    def _within(
        self, network: nn.Module, images: State, epsilon: float, seed: int, batch_size: int
    ) -> Tensor:
        """The nearest fooling images met within epsilon; the clean ones where there is none."""
        through, leaves = differentiable(network, self.gradients), may_leave(network)
        starts = images["targets"].shape[1] * self.restarts

        def step(state: State) -> tuple[State, Tensor]:
            clean, label, start = state["clean"], state["label"], state["start"]
            target = state["targets"].gather(1, (start // self.restarts)[:, None])
            value, gradient = _lead(through, state["x"], label[:, None], target)
            with torch.no_grad():
                x = self._moved(state["x"], clean, value, gradient)
                fooled = network(x).argmax(1) != label
                distance = size(x - clean, self.norm)
                nearer = fooled & (distance <= epsilon) & (distance < state["distance"])
                kept = torch.where(each(nearer), x, state["kept"])
                distance = torch.where(nearer, distance, state["distance"])
                x = torch.where(each(fooled), clean + self.beta * (x - clean), x)

                count = state["step"] + 1
                ends = count == self.steps
                start = start + ends
                if self.restarts == 1:  # nothing is drawn: the host need not know who starts
                    x = torch.where(each(ends), clean, x)
                elif ends.any():
                    x[ends] = self._started(clean[ends], state["id"][ends], start[ends], epsilon, seed)
                count = torch.where(ends, 0, count)
                done = (start == starts) | (nearer & leaves)
            moved = {"x": x, "kept": kept, "distance": distance, "step": count, "start": start}
            return state | moved, done

        clean, none = images["clean"], torch.zeros_like(images["label"])
        state = {"x": clean, "kept": clean, "distance": torch.full_like(clean[:, 0, 0, 0], torch.inf)}
        return compacted(images | state | {"step": none, "start": none}, batch_size, step)

    def _moved(self, x: Tensor, clean: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Over the boundary, between what takes x there and what takes the image there: equations 9 to 11."""
        points, images, normals = x.flatten(1), clean.flatten(1), gradient.flatten(1)
        at_image = value + (normals * (images - points)).sum(1)
        changes = onto_hyperplane(
            self.norm,
            torch.cat([points, images]),
            torch.cat([normals, normals]),
            torch.cat([value, at_image]),
        )
        from_x, from_image = changes.view(2, *x.shape)
        # Where neither moves, halfway.
        far, near = size(changes, self.norm).clamp(min=1e-8).view(2, -1)
        alpha = each((far / (far + near)).clamp(max=self.alpha_max))
        moved = (1 - alpha) * (x + self.eta * from_x) + alpha * (clean + self.eta * from_image)
        return moved.clamp(0, 1)

    def _started(self, clean: Tensor, ids: Tensor, start: Tensor, epsilon: float, seed: int) -> Tensor:
        """The image itself, or for restarts a point at half of epsilon from it (before it is clipped)."""
        if self.norm == "linf":
            drawn = 2 * seeds.uniform(seed, ids, start, clean[0].numel()) - 1
        else:
            drawn = seeds.normal(seed, ids, start, clean[0].numel())
        change = epsilon / 2 * drawn / size(drawn, self.norm)[:, None]
        again = (clean + change.view_as(clean)).clamp(0, 1)
        return torch.where(each(start % self.restarts == 0), clean, again)


def _lead(network: nn.Module, images: Tensor, label: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How far the target's logit is above the label's, [B] (classes are [B, 1]), and its gradient."""
    x = images.detach().requires_grad_()
    outputs = network(x)
    lead = (outputs.gather(1, target) - outputs.gather(1, label))[:, 0]
    return lead.detach(), input_gradient(lead.sum(), x)
