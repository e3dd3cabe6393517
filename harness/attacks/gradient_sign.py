"""Attacks in l-inf that follow the sign of the loss's gradient: FGSM and PGD."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import seeds
from harness.attacks.compaction import State, compacted
from harness.attacks.gradients import differentiable, input_gradient, logits
from harness.spec import Fgsm, Pgd


def fgsm(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: Fgsm,
    seed: int,
    batch_size: int,
) -> list[Tensor]:
    """Fast gradient sign method: Goodfellow et al. 2015, section 4. One gradient serves all epsilons."""
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    direction = torch.cat(
        [_ascent(network, batch.clone().requires_grad_(), label)[0] for batch, label in batches]
    )
    return [(images + epsilon * direction).clamp(0, 1) for epsilon in settings.epsilon]


def pgd(
    network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Pgd, seed: int, batch_size: int
) -> list[Tensor]:
    """Projected gradient descent, l-inf: Madry et al. 2018, section 2.1.

    The random start is x + U(-epsilon, epsilon), drawn by (seed, image id, restart): the same for every
    epsilon, so that an epsilon's result does not depend on which others are asked for. Restarts are for
    the images that no earlier one fooled; an image's result is of the first that fools it, else of the last.
    """
    run = {"foolbox": _foolbox, "early_stop": _early_stop}[settings.engine]
    through = differentiable(network, settings.gradients)
    results = []
    for epsilon in settings.epsilon:
        moved, going = images.clone(), torch.arange(len(images), device=images.device)
        for restart in range(settings.restarts):
            if restart:
                going = going[logits(network, moved[going], batch_size).argmax(1) == labels[going]]
            if not len(going):
                break
            clean, start = images[going], images[going]
            if settings.random_start:
                draw = seeds.uniform(seed, ids[going], torch.full_like(going, restart), clean[0].numel())
                start = (clean + epsilon * (2 * draw.view_as(clean) - 1)).clamp(0, 1)
            moved[going] = run(network, through, clean, start, labels[going], epsilon, settings, batch_size)
        results.append(moved)
    return results


def _foolbox(
    network: nn.Module,
    through: nn.Module,
    clean: Tensor,
    start: Tensor,
    labels: Tensor,
    epsilon: float,
    settings: Pgd,
    batch_size: int,
) -> Tensor:
    """Foolbox's PGD from ``start``: every image takes all steps."""
    from eagerpy.astensor import astensor
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    class Started(LinfPGD):
        """Foolbox draws its start from torch's global generator, by position."""

        def __init__(self, at: Tensor) -> None:
            super().__init__(
                abs_stepsize=epsilon / settings.step_divisor, steps=settings.steps, random_start=True
            )
            self._at = at

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return astensor(self._at)

    model = PyTorchModel(through, bounds=(0, 1), device=clean.device)
    # run(), not attack(): the latter spends further passes on telling which images were fooled.
    batches = zip(clean.split(batch_size), start.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat(
        [Started(at).run(model, x, Misclassification(label), epsilon=epsilon) for x, at, label in batches]
    )


def _early_stop(
    network: nn.Module,
    through: nn.Module,
    clean: Tensor,
    start: Tensor,
    labels: Tensor,
    epsilon: float,
    settings: Pgd,
    batch_size: int,
) -> Tensor:
    """Foolbox's steps, but an image stays where it first fools the network."""

    def step(state: State) -> tuple[State, Tensor]:
        x, clean, label, steps = (
            state["x"].requires_grad_(),
            state["clean"],
            state["label"],
            state["steps"] + 1,
        )
        direction, found = _ascent(through, x, label)
        with torch.no_grad():
            fooled = found.argmax(1) != label
            if through is not network and fooled.any():
                rows = fooled.nonzero()[:, 0]
                fooled[rows] = network(x[rows]).argmax(1) != label[rows]
            moved = x + epsilon / settings.step_divisor * direction
            moved = (clean + (moved - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
            x = torch.where(fooled[:, None, None, None], x, moved)
        return {"x": x, "clean": clean, "label": label, "steps": steps}, fooled | (steps == settings.steps)

    zeros = torch.zeros_like(labels)
    return compacted({"x": start, "clean": clean, "label": labels, "steps": zeros}, batch_size, step)["x"]


def _ascent(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of the cross-entropy's gradient, and the logits."""
    found = network(x)
    return input_gradient(functional.cross_entropy(found, labels, reduction="sum"), x).sign(), found
