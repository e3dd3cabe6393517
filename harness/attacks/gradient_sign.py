"""Attacks in l-inf that follow the sign of the loss's gradient: FGSM and PGD."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import seeds
from harness.attacks.gradients import input_gradient
from harness.spec import Fgsm, Pgd


def fgsm(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Fgsm, seed: int) -> list[Tensor]:
    """Fast gradient sign method: Goodfellow et al. 2015, section 4. One gradient serves all epsilons."""
    x = images.clone().requires_grad_()
    direction = input_gradient(functional.cross_entropy(network(x), labels, reduction="sum"), x).sign()
    return [(images + epsilon * direction).clamp(0, 1) for epsilon in settings.epsilon]


def pgd(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Pgd, seed: int) -> list[Tensor]:
    """Projected gradient descent, l-inf: Madry et al. 2018, section 2.1, run by Foolbox.

    The random start is x + U(-epsilon, epsilon) with the same draw for every epsilon, so that an
    epsilon's result does not depend on which others are asked for.
    """
    from eagerpy.astensor import astensor
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    class KeyedStart(LinfPGD):
        """Foolbox draws the start from torch's global generator, by position; this one by image id."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            draw = seeds.uniform(seed, ids, torch.zeros_like(ids), images[0].numel())
            return x0 + epsilon * astensor(2 * draw.view_as(images) - 1)

    model = PyTorchModel(network, bounds=(0, 1), device=images.device)
    result = []
    for epsilon in settings.epsilon:
        attack = KeyedStart(abs_stepsize=epsilon / settings.step_divisor, steps=settings.steps, random_start=settings.random_start)
        # run(), not attack(): the latter spends further passes on telling which images were fooled.
        result.append(attack.run(model, images, Misclassification(labels), epsilon=epsilon))
    return result
