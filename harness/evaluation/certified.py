"""Randomised smoothing: the l2 radius within which a smoothed network's prediction can't change.

What is certified is g, the class that the network f chooses most often under noise N(0, sd^2), not f.
Cohen, Rosenfeld & Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor

from harness.errors import HarnessError
from harness.seeds import derive, normal

ABSTAINS = -1

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Smoothing:
    """A smoothed network: CERTIFY's sd, draws (n0 and n) and alpha, by the columns of table ``certified``."""

    noise_sd: float
    selection_draws: int
    certification_draws: int
    alpha: float


@dataclass(frozen=True)
class Certificate:
    """What holds of the smoothed network at one image, with probability 1 - alpha at least.

    ``prediction``: its class, -1 where it abstains; ``top_count``: of the certification draws, those of the
    chosen class; ``radius``: l2, in units of pixel values; 0 where it abstains.
    """

    image_id: int
    label: int
    prediction: int
    top_count: int
    radius: float


def certify(
    network: Network,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    noise_sd: float,
    selection_draws: int,
    certification_draws: int,
    alpha: float,
    seed: int,
    batch_size: int,
) -> list[Certificate]:
    """CERTIFY (Cohen et al. 2019, figure 1 and section 3.2.2) for each image.

    ``network`` takes float [B, C, H, W] to logits [B, K]; it must be deterministic and in evaluation mode.
    ``images`` in [0, 1]; image + noise is not clipped, as in the paper. ``labels`` and ``ids``: int64 [N].
    Raises HarnessError where ``noise_sd``, the draws or ``alpha`` are out of range.
    """
    _check(noise_sd, selection_draws, certification_draws, alpha)
    selected = class_counts(
        network, images, ids, noise_sd, selection_draws, derive(seed, "selection"), batch_size
    ).argmax(1)
    # Fresh draws: the bound doesn't hold for those that chose the class.
    counts = class_counts(
        network, images, ids, noise_sd, certification_draws, derive(seed, "certification"), batch_size
    )
    top_counts = counts.gather(1, selected[:, None])[:, 0]
    rows = zip(ids.tolist(), labels.tolist(), selected.tolist(), top_counts.tolist(), strict=True)
    return [
        _certificate(image_id, label, chosen, count, noise_sd, certification_draws, alpha)
        for image_id, label, chosen, count in rows
    ]


def class_counts(
    network: Network, images: Tensor, ids: Tensor, noise_sd: float, draws: int, seed: int, batch_size: int
) -> Tensor:
    """int64 [N, K]: how many of ``draws`` noisy copies of each image the network puts in each class.

    A draw's noise depends on (seed, image id, draw) alone; batches run over all (image, draw) pairs.
    """
    pairs = torch.arange(len(images) * draws, device=images.device)
    size = images[0].numel()
    counts = None
    for batch in pairs.split(batch_size):
        index, draw = batch // draws, batch % draws
        noise = normal(seed, ids[index], draw, size).view(-1, *images.shape[1:])
        with torch.no_grad():
            outputs = network(images[index] + noise_sd * noise)
        if counts is None:
            counts = torch.zeros(len(images), outputs.shape[1], dtype=torch.int64, device=images.device)
        counts.index_put_((index, outputs.argmax(1)), torch.ones_like(index), accumulate=True)
    if counts is None:
        raise HarnessError("expected at least one image to certify, got none")
    return counts


def lower_bound(count: int, draws: int, alpha: float) -> float:
    """One-sided Clopper-Pearson bound: the share is at least this with probability 1 - alpha."""
    return 0.0 if count == 0 else float(betaincinv(count, draws - count + 1, alpha))


def largest_radius(noise_sd: float, draws: int, alpha: float) -> float:
    """The radius certified where all draws agree: sd * Phi^-1(alpha^(1/n)); 0 where that is no majority."""
    return max(0.0, noise_sd * float(ndtri(alpha ** (1 / draws))))


def _certificate(
    image_id: int, label: int, chosen: int, count: int, noise_sd: float, draws: int, alpha: float
) -> Certificate:
    bound = lower_bound(count, draws, alpha)
    if bound <= 0.5:
        return Certificate(image_id, label, ABSTAINS, count, 0.0)
    return Certificate(image_id, label, chosen, count, noise_sd * float(ndtri(bound)))


def _check(noise_sd: float, selection_draws: int, certification_draws: int, alpha: float) -> None:
    if not noise_sd > 0:
        raise HarnessError(f"noise_sd: expected a number above 0, got {noise_sd}")
    if not 0 < alpha < 1:
        raise HarnessError(f"alpha: expected a number between 0 and 1, both excluded, got {alpha}")
    if min(selection_draws, certification_draws) < 1:
        raise HarnessError(f"expected 1 draw or more, got {selection_draws} and {certification_draws}")
