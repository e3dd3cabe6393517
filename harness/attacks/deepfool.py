"""DeepFool."""

import torch
from torch import Tensor, nn

from harness.attacks.compaction import State, compacted
from harness.attacks.gradients import differentiable, input_gradient, logits
from harness.spec import DeepFool

_TOLERANCE = 1e-7  # keeps ART's (10e-8) divisions finite where two classes have equal gradients


def deepfool(
    network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, settings: DeepFool, seed: int, batch_size: int
) -> list[Tensor]:
    """DeepFool, l2: Moosavi-Dezfooli et al. 2016, algorithm 2, with ART's clipping and overshoot.

    All classes are candidates; each step is clipped to [0, 1]; the overshoot stretches the total
    perturbation at the end. An image that the network does not put in ``labels`` is left as it is.
    """
    through = differentiable(network, settings.gradients)

    def step(state: State) -> tuple[State, Tensor]:
        x, label = state["x"].requires_grad_(), state["label"]
        others = _others(label, state["logits"].shape[1])
        # One forward pass more than needed: an image that leaves after it would cost a backward pass for each class.
        lead = _leads(through(x), label, others)
        passes = range(lead.shape[1])
        w = torch.stack([input_gradient(-lead[:, k].sum(), x, keep_graph=k < passes[-1]) for k in passes], 1)
        with torch.no_grad():
            f, length, rows = _leads(state["logits"], label, others), w.flatten(2).norm(dim=2), torch.arange(len(x), device=x.device)
            nearest = (f / (length + _TOLERANCE)).argmin(1)
            size = f[rows, nearest] / (length[rows, nearest] ** 2 + _TOLERANCE)
            x = (x + size[:, None, None, None] * w[rows, nearest]).clamp(0, 1)
            found, steps = network(x), state["steps"] + 1
        done = (found.argmax(1) != label) | (steps == settings.steps)
        return {"x": x, "label": label, "logits": found, "steps": steps}, done

    moved, found = images.clone(), logits(network, images, batch_size)
    staying = (found.argmax(1) == labels).nonzero()[:, 0]
    if len(staying):
        start = {"x": images[staying], "label": labels[staying], "logits": found[staying], "steps": torch.zeros_like(staying)}
        moved[staying] = compacted(start, batch_size, step)["x"]
    return [(images + (1 + settings.overshoot) * (moved - images)).clamp(0, 1)]


def _others(labels: Tensor, classes: int) -> Tensor:
    """All classes but the label, int64 [B, classes - 1]."""
    ranks = torch.arange(classes - 1, device=labels.device)[None]
    return ranks + (ranks >= labels[:, None])


def _leads(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """How far the label's logit is above each other one, [B, classes - 1]."""
    return logits.gather(1, labels[:, None]) - logits.gather(1, others)
