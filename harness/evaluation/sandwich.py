"""How far a smoothed network's class really holds: the other side of a certified radius.

A change found that takes g to another class bounds its true radius from above, a certificate from below.
"""

import math

import torch
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import log_softmax

from harness.evaluation.certified import Network, Smoothing, class_counts
from harness.seeds import derive, normal

JUDGING_DRAWS = 400  # fresh ones, that tell whether g has left the class
_STEPS = 60
_DRAWS = 32  # a gradient is the mean over so many
_GAMMA = 0.05  # by which the length changes in a step
# Lengths tried of a change, relative to its own, until one fools.
_SCALES = (*(1.1**power for power in range(-1, 9)), 3.0, 5.0)
# That an image takes, where a gradient is worth three and a third of the scales is tried.
FORWARDS = 3 * _STEPS * _DRAWS + JUDGING_DRAWS * len(_SCALES) // 3


def smallest_fooling(
    network: Network,
    images: Tensor,
    classes: Tensor,
    ids: Tensor,
    smoothing: Smoothing,
    seed: int,
    batch_size: int,
) -> list[float | None]:
    """For each image the smallest l2 change found that takes the smoothed network off its class.

    ``classes``: what the smoothed network says of each image, int64 [N]. Changes are searched for in all of
    R^d, as it is certified: they may leave [0, 1]. One counts where of ``JUDGING_DRAWS`` fresh draws more are
    of another class, beyond what chance gives a tie with probability alpha. None where none was found.
    """
    if not len(images):
        return []
    sd = smoothing.noise_sd
    parts = torch.arange(len(images), device=images.device).split(max(1, batch_size // _DRAWS))
    changes = [
        _toward_the_boundary(network, images[part], classes[part], ids[part], sd, seed) for part in parts
    ]
    change = torch.cat(changes)
    lengths = change.flatten(1).norm(dim=1)
    left = (lengths > 0).nonzero()[:, 0]
    found: list[float | None] = [None] * len(images)
    for number, scale in enumerate(_SCALES):
        if not len(left):
            break
        moved, draws = images[left] + scale * change[left], derive(seed, "judged", number)
        counts = class_counts(network, moved, ids[left], sd, JUDGING_DRAWS, draws, batch_size)
        is_fooled = _has_left(counts, classes[left], smoothing.alpha / len(_SCALES))
        for position in left[is_fooled].tolist():
            found[position] = scale * lengths[position].item()
        left = left[~is_fooled]
    return found


def _toward_the_boundary(
    network: Network, images: Tensor, classes: Tensor, ids: Tensor, noise_sd: float, seed: int
) -> Tensor:
    """Changes [B, C, H, W]: the shortest that the mean over noisy copies calls another class, else the last.

    DDN (Rony et al., "Decoupling direction and norm", CVPR 2019, algorithm 1) on the mean probabilities of
    noisy copies, fresh ones in each step, with the sd as the first length and no rounding.
    """
    shape = (-1, *[1] * (images.dim() - 1))
    change = torch.zeros_like(images)
    length = torch.full((len(images),), noise_sd, device=images.device)
    shortest, best = torch.full_like(length, math.inf), change
    for step in range(_STEPS):
        log_mean, gradient = _gradient(network, images + change, classes, ids, noise_sd, seed, step)
        is_other = log_mean.argmax(1) != classes
        norm = change.flatten(1).norm(dim=1)
        is_shorter = is_other & (norm > 0) & (norm < shortest)
        shortest = torch.where(is_shorter, norm, shortest)
        best = torch.where(is_shorter.view(shape), change, best)
        length = length * torch.where(is_other, 1 - _GAMMA, 1 + _GAMMA)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / _STEPS)) / 2
        change = length.view(shape) * _unit(change + rate * length.view(shape) * _unit(gradient))
    return torch.where(shortest.isinf().view(shape), change, best)


def _gradient(
    network: Network, images: Tensor, classes: Tensor, ids: Tensor, noise_sd: float, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """The logarithm of the mean probabilities [B, K], and the gradient that lowers the class's."""
    count, size = len(images), images[0].numel()
    draw = step * _DRAWS + torch.arange(_DRAWS, device=images.device).repeat(count)
    noise = normal(derive(seed, "attack"), ids.repeat_interleave(_DRAWS), draw, size)
    moved = images.detach().requires_grad_()
    with torch.enable_grad():
        noisy = moved.repeat_interleave(_DRAWS, 0) + noise_sd * noise.view(-1, *images.shape[1:])
        drawn = log_softmax(network(noisy), dim=1).view(count, _DRAWS, -1)
        log_mean = drawn.logsumexp(1) - math.log(_DRAWS)
        (gradient,) = torch.autograd.grad(-log_mean.gather(1, classes[:, None]).sum(), moved)
    return log_mean.detach(), gradient


def _unit(change: Tensor) -> Tensor:
    """Each of length 1; zero stays zero."""
    norm = change.flatten(1).norm(dim=1).clamp(min=1e-30)
    return change / norm.view(-1, *[1] * (change.dim() - 1))


def _has_left(counts: Tensor, classes: Tensor, level: float) -> Tensor:
    """bool [N]: another class has more of the draws, and a fair coin gives so many with at most ``level``."""
    own = counts.gather(1, classes[:, None])[:, 0]
    others = counts.scatter(1, classes[:, None], -1).amax(1)
    # P(X >= others) of X ~ binomial(own + others, 1/2).
    chance = torch.from_numpy(betainc(others.cpu().clamp(min=1).numpy(), own.cpu().numpy() + 1, 0.5))
    return ((others > own).cpu() & (chance <= level)).to(counts.device)
