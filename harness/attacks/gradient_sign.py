"""Attacks in l-inf that follow the sign of the loss's gradient: FGSM and PGD."""

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import seeds
from harness.attacks.attack import Attack, Gradients
from harness.attacks.ball import each
from harness.attacks.batch import State, compacted, differentiable, input_gradient, logits, margin, may_leave
from harness.settings import Count, Epsilons, Settings

PgdEngine = Annotated[
    Literal["foolbox", "early_stop"],
    Field(description="Foolbox's takes all steps; early_stop leaves an image where it is fooled"),
]
Restarts = Annotated[int, Field(ge=1, description="starts tried on an image until one fools it")]


class Fgsm(Attack):
    """Fast gradient sign method: Goodfellow et al. 2015. l-inf radius ``epsilon``."""

    title: ClassVar[str] = "FGSM"
    revision: ClassVar[int] = 0

    method: Literal["fgsm"]
    epsilon: Epsilons

    def cost(self, classes: int, values: int) -> float:
        """One for all epsilons."""
        return 1

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Goodfellow et al. 2015, section 4. One gradient serves all epsilons."""
        signs = []
        for x, label in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            sign, _ = _ascent(network, x.clone().requires_grad_(), label)
            signs.append(sign)
        direction = torch.cat(signs)
        return [(images + epsilon * direction).clamp(0, 1) for epsilon in self.epsilon]


class PgdSettings(Settings):
    """How projected gradient descent is run, whatever its step sizes."""

    epsilon: Epsilons
    steps: Count = 40
    random_start: bool = True
    restarts: Restarts = 1
    engine: PgdEngine = "foolbox"
    gradients: Gradients = "float32"

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("'restarts' without 'random_start' would all be the same")
        return self


class Pgd(PgdSettings, Attack):
    """Projected gradient descent, l-inf: Madry et al. 2018."""

    title: ClassVar[str] = "PGD"
    revision: ClassVar[int] = 0

    method: Literal["pgd"]
    step_divisor: Annotated[float, Field(ge=1)] = Field(
        10.0, description="step size = epsilon / step_divisor"
    )

    def cost(self, classes: int, values: int) -> float:
        """All steps of all restarts, as if none fooled before."""
        return self.steps * self.restarts * len(self.epsilon)

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Madry et al. 2018, section 2.1.

        The random start is x + U(-epsilon, epsilon), drawn by (seed, image id, restart): the same for every
        epsilon, so that an epsilon's result does not depend on which others are asked for. Restarts are for
        the images that no earlier one fooled; an image's result is of the first that fools it, else of the
        last. A network that draws is fooled by none for certain: all restarts are for all images, and the
        smallest margin is an image's result.
        """
        through, leaves = differentiable(network, self.gradients), may_leave(network)
        results = []
        for epsilon in self.epsilon:
            moved = images.clone()
            going = torch.arange(len(images), device=images.device)  # the images that are not yet fooled
            for restart in range(self.restarts):
                if restart and leaves:
                    predicted = logits(network, moved[going], batch_size).argmax(1)
                    going = going[predicted == labels[going]]
                if not len(going):
                    break
                clean = start = images[going]
                if self.random_start:
                    draw = seeds.uniform(seed, ids[going], torch.full_like(going, restart), clean[0].numel())
                    start = (clean + epsilon * (2 * draw.view_as(clean) - 1)).clamp(0, 1)
                state = {"x": start, "clean": clean, "label": labels[going]}
                if self.engine == "foolbox":
                    made = self._foolbox(through, state, epsilon, batch_size)
                else:
                    made = self._early_stop(network, through, state, epsilon, batch_size)
                moved[going] = made if leaves else _lower(network, moved, made, labels, batch_size)
            results.append(moved)
        return results

    def _foolbox(self, through: nn.Module, start: State, epsilon: float, batch_size: int) -> Tensor:
        """Foolbox's PGD: every image takes all steps."""
        from eagerpy.astensor import astensor
        from foolbox.attacks import LinfPGD
        from foolbox.criteria import Misclassification
        from foolbox.models.pytorch import PyTorchModel

        class Started(LinfPGD):
            """From a start of ours: Foolbox draws its own from torch's global generator, by position."""

            start: Tensor

            def get_random_start(self, x0: Any, epsilon: float) -> Any:
                return astensor(self.start)

        attack = Started(abs_stepsize=epsilon / self.step_divisor, steps=self.steps, random_start=True)
        model = PyTorchModel(through, bounds=(0, 1), device=start["x"].device)
        parts = (start[name].split(batch_size) for name in ("x", "clean", "label"))
        moved = []
        for x, clean, label in zip(*parts, strict=True):
            attack.start = x
            # run(), not attack(): the latter spends further passes on telling which images were fooled.
            moved.append(attack.run(model, clean, Misclassification(label), epsilon=epsilon))
        return torch.cat(moved)

    def _early_stop(
        self, network: nn.Module, through: nn.Module, start: State, epsilon: float, batch_size: int
    ) -> Tensor:
        """Foolbox's steps, but an image stays where it first fools the network, unless that draws."""
        step_size, leaves = epsilon / self.step_divisor, may_leave(network)

        def step(state: State) -> tuple[State, Tensor]:
            x, clean, label = state["x"].requires_grad_(), state["clean"], state["label"]
            count = state["step"] + 1
            direction, outputs = _ascent(through, x, label)
            with torch.no_grad():
                fooled = (outputs.argmax(1) != label) & leaves
                if through is not network and fooled.any():
                    rows = fooled.nonzero()[:, 0]
                    fooled[rows] = network(x[rows]).argmax(1) != label[rows]
                moved = x + step_size * direction
                moved = (clean + (moved - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
                x = torch.where(each(fooled), x, moved)
            done = fooled | (count == self.steps)
            return {"x": x, "clean": clean, "label": label, "step": count}, done

        none = torch.zeros_like(start["label"])
        return compacted(start | {"step": none}, batch_size, step)


def _lower(network: nn.Module, one: Tensor, other: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Of two versions of each image, that with the smaller margin."""
    margins = [margin(logits(network, images, batch_size), labels) for images in (one, other)]
    return torch.where(each(margins[1] < margins[0]), other, one)


def _ascent(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of the cross-entropy's gradient [B, C, H, W], and the logits [B, classes]."""
    outputs = network(x)
    loss = functional.cross_entropy(outputs, labels, reduction="sum")
    return input_gradient(loss, x).sign(), outputs
