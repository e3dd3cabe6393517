"""DeepFool."""

import torch
from torch import Tensor, nn

from harness.attacks.gradients import input_gradient
from harness.spec import DeepFool

_TOLERANCE = 1e-7  # keeps ART's (10e-8) divisions finite where two classes have equal gradients


def deepfool(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: DeepFool, seed: int) -> list[Tensor]:
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, algorithm 2, with ART's clipping and overshoot.

    All classes are candidates; each step is clipped to [0, 1]; the overshoot stretches the total
    perturbation at the end. An image that the network does not put in ``labels`` is left as it is.
    """
    moved = images.clone()
    active = torch.arange(len(images), device=images.device)
    for _ in range(settings.steps):
        x = moved[active].requires_grad_()
        logits = network(x)
        staying = logits.argmax(1) == labels[active]
        if not staying.all():
            # One more forward pass is cheaper than one backward pass per class on images that are done.
            active = active[staying]
            if not len(active):
                break
            x = moved[active].requires_grad_()
            logits = network(x)
        classes = logits.shape[1]
        gradients = torch.stack([input_gradient(logits[:, k].sum(), x, keep_graph=k + 1 < classes) for k in range(classes)], 1)
        rows, own = torch.arange(len(active), device=images.device), labels[active]
        with torch.no_grad():
            w = gradients - gradients[rows, own][:, None]
            f = (logits - logits[rows, own][:, None]).abs()
            length = w.flatten(2).norm(dim=2)
            distance = f / (length + _TOLERANCE)
            distance[rows, own] = torch.inf
            nearest = distance.argmin(1)
            step = f[rows, nearest] / (length[rows, nearest] ** 2 + _TOLERANCE)
            moved[active] = (x + step[:, None, None, None] * w[rows, nearest]).clamp(0, 1)
    return [(images + (1 + settings.overshoot) * (moved - images)).clamp(0, 1)]
