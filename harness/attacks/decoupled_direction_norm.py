"""DDN: the direction from the gradient, the norm from whether the last image fooled the network."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.attacks.gradients import differentiable, input_gradient
from harness.spec import Ddn


def ddn(
    network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: Ddn, seed: int, batch_size: int
) -> list[Tensor]:
    """Decoupled direction and norm, l2: Rony et al. 2019, algorithm 1, without its quantisation.

    Each step follows the cross-entropy's gradient, normalised, its length falling from 1 to .01 by a
    cosine, and puts the perturbation at a norm that shrinks by gamma where the last image was
    adversarial and grows by it elsewhere. Returns the nearest adversarial image met; the clean image
    where none was met, or where it is one. A gradient of zero moves nothing (the authors draw a direction).
    """
    through = differentiable(network, settings.gradients)
    # All images take all steps: there is nothing to refill.
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return [torch.cat([_ddn(network, through, batch, label, settings) for batch, label in batches])]


def _ddn(network: nn.Module, through: nn.Module, images: Tensor, labels: Tensor, settings: Ddn) -> Tensor:
    best, best_norm = images.clone(), images.new_full((len(images),), torch.inf)
    norm = images.new_full((len(images),), settings.initial_norm)
    largest = _norms(torch.maximum(images, 1 - images))  # of any perturbation
    delta = torch.zeros_like(images)
    for step in range(settings.steps):
        x = (images + delta).requires_grad_()
        logits = through(x)
        gradient = input_gradient(functional.cross_entropy(logits, labels, reduction="sum"), x)
        with torch.no_grad():
            if through is not network:
                logits = network(x)
            adversarial = logits.argmax(1) != labels
            now = _norms(delta)
            nearer = adversarial & (now < best_norm)
            best = torch.where(nearer[:, None, None, None], x, best)
            best_norm = torch.where(nearer, now, best_norm)
            length = 0.01 + 0.99 * (1 + math.cos(math.pi * step / settings.steps)) / 2
            delta = delta + length * _unit(gradient)
            norm = torch.minimum(
                norm * torch.where(adversarial, 1 - settings.gamma, 1 + settings.gamma), largest
            )
            delta = (images + norm[:, None, None, None] * _unit(delta)).clamp(0, 1) - images
    return best


def _norms(values: Tensor) -> Tensor:
    """l2 of each image, [B]."""
    return values.flatten(1).norm(dim=1)


def _unit(values: Tensor) -> Tensor:
    """Each image divided by its l2; zeros stay zeros. The largest value first: squares of 1e-23 vanish in float32."""
    largest = values.abs().amax((1, 2, 3), keepdim=True)
    scaled = values / largest.clamp(min=torch.finfo(values.dtype).tiny)
    return scaled / _norms(scaled).clamp(min=torch.finfo(values.dtype).tiny)[:, None, None, None]
