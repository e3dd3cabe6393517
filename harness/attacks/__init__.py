"""The attacks: one function each with the same head, and one dict that names them all.

Images are float32 [B, C, H, W] in [0, 1]; networks take such images and return logits [B, classes].
Every image's path is its own: its own stopping, constants and draws (keyed on seed and image id), so
how images are grouped changes nothing but the order of summation inside the network's kernels.
Images that are done leave the batch and others take their place (see ``compaction``).

What an attack says of its own success is not used: predictions and ``norms`` are measured afterwards.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks.carlini_wagner import cw_l2
from harness.attacks.decoupled_direction_norm import ddn
from harness.attacks.deepfool import deepfool
from harness.attacks.gradient_sign import fgsm, pgd
from harness.attacks.gradients import frozen
from harness.attacks.saliency_map import jsma, jsma_pairs
from harness.errors import did_you_mean
from harness.spec import AttackSpec

# (network, images, labels = classes to leave, ids, settings, seed, images in the network at once) -> all images
# for each epsilon of the settings, in their order; once for attacks that look for the smallest perturbation.
Attack = Callable[[nn.Module, Tensor, Tensor, Tensor, Any, int, int], list[Tensor]]

_LINF_TOLERANCE = 1e-6  # float32 rounding of x + epsilon

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "deepfool": deepfool,
    "jsma": jsma,
    "jsma_pairs": jsma_pairs,
    "cw_l2": cw_l2,
    "ddn": ddn,
    "pgd": pgd,
}


def perturb(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: AttackSpec,
    seed: int,
    batch_size: int = 128,
) -> list[Tensor]:
    """The adversarial images of one attack: float32 [B, C, H, W] in [0, 1] on the images' device.

    ``images`` float32 [B, C, H, W] in [0, 1]; ``labels`` int64 [B], the classes to leave (true labels
    or the network's predictions); ``ids`` int64 [B], which key the draws; ``batch_size`` of them are in the
    network at once. All images for each epsilon of the settings, in order; once for attacks that look for
    the smallest perturbation. The network is in eval mode, returns logits, and is left as it was found.

    Raises ValueError for inputs that cannot be attacked, RuntimeError for an attack that broke its word.
    """
    method = getattr(settings, "method", None)
    if method not in ATTACKS:
        raise ValueError(f"unknown attack method '{method}'{did_you_mean(str(method), ATTACKS)}")
    _check_inputs(network, images, labels, ids)
    images = (
        images.detach().flatten(1).view(images.shape)
    )  # strides as of a new tensor: kernels are chosen by them
    with torch.enable_grad(), frozen(network):
        result = [
            batch.detach()
            for batch in ATTACKS[method](network, images, labels, ids, settings, seed, batch_size)
        ]
    epsilons: tuple[float | None, ...] = getattr(settings, "epsilon", (None,))
    for batch, epsilon in zip(result, epsilons, strict=True):
        if batch.shape != images.shape or batch.dtype != torch.float32 or batch.device != images.device:
            raise RuntimeError(
                f"{method} returned {batch.dtype} {tuple(batch.shape)} on {batch.device}, unlike the images it was given"
            )
        if not (batch.min() >= 0 and batch.max() <= 1):
            raise RuntimeError(f"{method} returned values that are not finite or not in [0, 1]")
        if epsilon is not None and (batch - images).abs().max() > epsilon + _LINF_TOLERANCE:
            raise RuntimeError(
                f"{method} left the l-inf ball of radius {epsilon}: {(batch - images).abs().max().item()}"
            )
    return result


def norms(images: Tensor, adversarial: Tensor) -> dict[str, np.ndarray]:
    """Sizes of the perturbations, each [B], computed in float64 on the CPU.

    ``l0`` int32, values changed; ``mean_l1`` mean absolute change of a value; ``l2`` Euclidean, summed
    over the values; ``linf`` largest absolute change. Raises ValueError where the shapes differ.
    """
    if images.shape != adversarial.shape:
        raise ValueError(
            f"images and adversarial images differ in shape: {tuple(images.shape)} and {tuple(adversarial.shape)}"
        )
    change = (adversarial.detach().cpu().double() - images.detach().cpu().double()).abs().flatten(1).numpy()
    return {
        "l0": np.count_nonzero(change, axis=1).astype(np.int32),
        "mean_l1": change.mean(axis=1),
        "l2": np.sqrt(np.square(change).sum(axis=1)),
        "linf": change.max(axis=1),
    }


def _check_inputs(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor) -> None:
    """ValueError for anything that would make an attack mean something else than it says."""
    if images.dtype != torch.float32 or images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images must be float32 [B, C, H, W] and not empty, got {images.dtype} {tuple(images.shape)}"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min().item()} to {images.max().item()}")
    for name, value in (("labels", labels), ("ids", ids)):
        if value.dtype != torch.int64 or value.shape != images.shape[:1] or value.device != images.device:
            came = f"{value.dtype} {tuple(value.shape)} on {value.device}"
            raise ValueError(f"{name} must be int64 [{len(images)}] on {images.device}, got {came}")
    if any(module.training for module in network.modules()):
        raise ValueError(
            "the network must be in eval mode: dropout and batch statistics would tie images together"
        )
    with torch.no_grad():
        logits = network(images[:1])
    if logits.ndim != 2 or not logits.isfinite().all():
        raise ValueError(
            f"the network must return finite logits [B, classes], got {tuple(logits.shape)}: {logits.flatten()[:4].tolist()}"
        )
    if (logits >= 0).all() and abs(logits.sum().item() - 1) < 1e-5:
        raise ValueError("the network must return logits, and these look like probabilities")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be 0 to {logits.shape[1] - 1}, got {labels.min().item()} to {labels.max().item()}"
        )
