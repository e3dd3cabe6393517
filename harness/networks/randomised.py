"""Networks that draw at random (dropout left on, noise inside), and the mean of what they draw."""

import math
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

_RERUNS = 3
_OTHER_BATCH = 7  # images
_DEVIATION = 1e-4  # of logits of length 1; kernels that sum in another order change 1e-6


class Expected(nn.Module):
    """The mean over draws of a network's own randomness: [0, 1] images to log-probabilities [B, classes].

    Every call draws anew, ``draws`` times, and returns the logarithm of the mean probabilities. Its gradient
    is that of the expectation, as far as so many draws tell: expectation over transformation, Athalye et al.
    2018, section 4.1.2. Attacks read from ``draws`` that no image may leave early (``batch.may_leave``).
    As many activations as for ``draws`` batches are kept for a gradient.
    """

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        self.network, self.draws = network, draws
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        drawn = [log_softmax(self.network(images), dim=1) for _ in range(self.draws)]
        return torch.stack(drawn).logsumexp(0) - math.log(self.draws)


def is_randomised(network: nn.Module, images: Tensor) -> bool:
    """Whether the logits of ``images``, float32 [B, C, H, W], differ between calls."""
    return rerun_deviation(network, images) > _DEVIATION


def rerun_deviation(network: nn.Module, images: Tensor) -> float:
    """The largest distance between two runs' logits of an image, each of length 1: 0 to 2.

    Of three runs of all images, and one of seven at a time.
    """
    with torch.no_grad():
        runs = [network(images) for _ in range(_RERUNS)]
        runs.append(torch.cat([network(part) for part in images.split(_OTHER_BATCH)]))
    directions = [normalize(run.double(), dim=1) for run in runs]
    return max((one - other).norm(dim=1).max().item() for one, other in combinations(directions, 2))
