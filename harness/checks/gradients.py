"""Networks: gradients to the image, and the memory that they take."""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.batch import margin
from harness.checks.check import ROUNDING, Finding, difference, held

_STEP = 0.002  # of the finite difference: half a grey level
AGREES = 0.5  # of the step that the gradient tells; honest networks of the paper's kind have above 0.8


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
    with torch.no_grad():
        logits = network(x)
    zero = has_no_direction(network, x, logits.argmax(1))
    constant = difference(logits, logits[:1].expand_as(logits)) <= ROUNDING
    if constant or not zero.any():
        return Finding("ok")
    largest = logits.abs().max().item()
    return Finding(
        "note", f"0 for {_counted(zero)}: logits of up to {largest:.3g} round probabilities to 0 or 1"
    )


def finite_difference(network: nn.Module, x: Tensor) -> Finding:
    """A step along the gradient's sign, as a share of what the gradient says of it: the images' median."""
    if not has_gradient(network, x):
        return Finding("ok")
    with torch.no_grad():
        predicted = network(_inside(x)).argmax(1)
    shares = step_shares(network, x, predicted)
    shares = shares[shares.isfinite()]
    if not len(shares):
        return Finding("ok")
    share = shares.median().item()
    if share >= AGREES:
        return Finding("ok", f"{share:.2f} of it")
    return Finding("note", f"{share:.2f} of it: quantised, noisy, or a gradient of something else")


# --- what checks of robustness share --------------------------------------------------------------------


def has_gradient(network: nn.Module, x: Tensor) -> bool:
    """Whether logits of images [B, C, H, W] depend on them by a graph."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        logits = network(x)
        return logits.requires_grad and _derived(logits.sum(), x) is not None


def has_no_direction(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """bool [B]: of images x [B, C, H, W], whether the gradient of cross-entropy is 0 or not finite."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        gradient = _derived(F.cross_entropy(network(x), labels, reduction="sum"), x)
    if gradient is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return (gradient.flatten(1).abs().amax(1) == 0) | ~_finite(gradient)


def step_shares(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """What a step of half a grey level along the gradient's sign does, as a share of what the gradient says.

    [B], of the margin of ``labels`` int64 [B] in logits, by central differences at images [B, C, H, W] moved
    inside [0, 1]; NaN where the gradient is 0 or not finite. The logits must have a graph.
    """
    x = _inside(x)
    with torch.enable_grad():
        moving = x.clone().requires_grad_()
        gradient = _derived(margin(network(moving), labels).sum(), moving)
    assert gradient is not None, "no graph"
    promised = 2 * _STEP * gradient.flatten(1).abs().sum(1)
    step = _STEP * gradient.sign()
    with torch.no_grad():
        ends = [margin(network(x + sign * step), labels) for sign in (1, -1)]
    return torch.where(promised > 0, (ends[0] - ends[1]) / promised, torch.nan)


def _inside(x: Tensor) -> Tensor:
    """So that no step leaves [0, 1]."""
    return x * (1 - 4 * _STEP) + 2 * _STEP


def _derived(value: Tensor, x: Tensor) -> Tensor | None:
    """d value / d x; None where there is no graph from one to the other."""
    if not value.requires_grad:
        return None
    gradient: Tensor | None = torch.autograd.grad(value, x, allow_unused=True)[0]
    return gradient


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
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        logits = network(x)
        gradient = _derived(margin(logits, logits.argmax(1)).sum(), x)
    return gradient, logits.detach()


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
