"""Networks: gradients to the image, and the memory that they take."""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.batch import margin
from harness.checks.check import ROUNDING, Finding, difference, held

_STEP = 0.002  # of the finite difference: half a grey level
_AGREES = 0.5  # of the step that the gradient tells; honest networks of the paper's kind have above 0.8


def image_gradient(network: nn.Module, x: Tensor) -> Finding:
    """Of the margin between the two largest logits, whose gradient no size of the logits hides."""
    gradient, logits = _gradient(network, x)
    if gradient is None:
        return Finding("failed", "logits that are cut off from the image: detached, or rounded to integers")
    if not gradient.isfinite().all():
        return Finding("failed", f"values that are not finite for {_counted(~_finite(gradient))}")
    zero = gradient.flatten(1).abs().amax(1) == 0
    if zero.any() and difference(logits, logits[:1].expand_as(logits)) <= ROUNDING:
        return Finding("note", "0, and the same logits of all images: nothing to follow before training")
    return held(not zero.any(), f"0 for {_counted(zero)}")


def cross_entropy_gradient(network: nn.Module, x: Tensor) -> Finding:
    """Of the predicted class: where its probability rounds to 1, attacks that follow it go nowhere."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(x)
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    zero = gradient.flatten(1).abs().amax(1) == 0
    constant = difference(logits, logits[:1].expand_as(logits)) <= ROUNDING
    if constant or not zero.any():
        return Finding("ok")
    largest = logits.abs().max().item()
    return Finding(
        "note", f"0 for {_counted(zero)}: logits of up to {largest:.3g} round probabilities to 0 or 1"
    )


def finite_difference(network: nn.Module, x: Tensor) -> Finding:
    """A step along the gradient's sign, as a share of what the gradient says of it: the images' median."""
    inside = x * (1 - 4 * _STEP) + 2 * _STEP  # so that no step leaves [0, 1]
    gradient, logits = _gradient(network, inside)
    if gradient is None:
        return Finding("ok")
    promised = 2 * _STEP * gradient.flatten(1).abs().sum(1)
    step = _STEP * gradient.sign()
    with torch.no_grad():
        ends = [_margins(network(inside + sign * step), logits) for sign in (1, -1)]
    shares = (ends[0] - ends[1]) / promised
    follows = promised > 0
    if not follows.any():
        return Finding("ok")
    share = shares[follows].median().item()
    if share >= _AGREES:
        return Finding("ok", f"{share:.2f} of it")
    return Finding("note", f"{share:.2f} of it: quantised, noisy, or a gradient of something else")


def memory(network: nn.Module, x: Tensor, batch_size: int) -> Finding:
    """Bytes that a forward pass keeps for its backward pass, in training, as a multiple of these images'."""
    weights = {value.untyped_storage().data_ptr() for value in network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    trained = list(network.parameters())
    for parameter in trained:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            logits = network(x.clone().requires_grad_())  # bound: what is kept lives as long as it does
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
    needed = sum(kept.values()) * batch_size / len(x)
    there = _memory_of(logits.device)
    came = f"{_size(needed)} for a batch of {batch_size}"
    return (
        Finding("ok", came) if needed <= there else Finding("failed", f"{came}, and there are {_size(there)}")
    )


def _gradient(network: nn.Module, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Of the sum of the images' margins; None where there is no graph. And the logits."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(x)
        if not logits.requires_grad:
            return None, logits
        value = _margins(logits, logits).sum()
        (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
    return gradient, logits.detach()


def _margins(logits: Tensor, of: Tensor) -> Tensor:
    """[B]: the logit of the class that ``of`` predicts, minus the largest other."""
    return margin(logits, of.argmax(1))


def _finite(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).isfinite().all(1)


def _counted(which: Tensor) -> str:
    return f"{int(which.sum())} of {len(which)} images"


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
