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
    """A smoothed network: CERTIFY's sd, draws (n0 and n) and alpha, by the columns of table ``certified``.

    Raises HarnessError where one of them is out of range.
    """

    noise_sd: float
    selection_draws: int
    certification_draws: int
    alpha: float

    def __post_init__(self) -> None:
        if not self.noise_sd > 0:
            raise HarnessError(f"noise_sd: expected a number above 0, got {self.noise_sd}")
        if not 0 < self.alpha < 1:
            raise HarnessError(f"alpha: expected a number between 0 and 1, both excluded, got {self.alpha}")
        draws = (self.selection_draws, self.certification_draws)
        if min(draws) < 1:
            raise HarnessError(f"expected 1 draw or more, got {draws[0]} and {draws[1]}")


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
    smoothing: Smoothing,
    seed: int,
    batch_size: int,
) -> list[Certificate]:
    """CERTIFY (Cohen et al. 2019, figure 1 and section 3.2.2) for each image.

    ``network`` takes float [B, C, H, W] to logits [B, K]; it must be deterministic and in evaluation mode.
    ``images`` in [0, 1]; image + noise is not clipped, as in the paper. ``labels`` and ``ids``: int64 [N].
    """
    sd = smoothing.noise_sd
    chosen_by, bounded_by = smoothing.selection_draws, smoothing.certification_draws
    selection, certification = derive(seed, "selection"), derive(seed, "certification")
    selected = class_counts(network, images, ids, sd, chosen_by, selection, batch_size).argmax(1)
    # Fresh draws: the bound doesn't hold for those that chose the class.
    counts = class_counts(network, images, ids, sd, bounded_by, certification, batch_size)
    top_counts = counts.gather(1, selected[:, None])[:, 0]
    rows = zip(ids.tolist(), labels.tolist(), selected.tolist(), top_counts.tolist(), strict=True)
    return [_certificate(*row, smoothing) for row in rows]


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


def _certificate(image_id: int, label: int, chosen: int, count: int, smoothing: Smoothing) -> Certificate:
    bound = lower_bound(count, smoothing.certification_draws, smoothing.alpha)
    if bound <= 0.5:
        return Certificate(image_id, label, ABSTAINS, count, 0.0)
    return Certificate(image_id, label, chosen, count, smoothing.noise_sd * float(ndtri(bound)))
