"""What the network is and returns: R, whether it draws; B, whether its images depend on one another; O, what
its outputs are.
"""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.attacks.batch import logits
from harness.checks.robustness.verdict import LEAST, Case, Judgement, Verdict, evidence_of, unjudged
from harness.evaluation.randomised import DRAWS

_DEVIATION = 1e-4  # of logits of length 1; honest networks stay within 2e-7
_CONSTANT = 1e-4  # of the range of an image's logits
_BATCHES = (7, 1)  # images; beside the study's batch size
_ALONE = 16  # images that are tried alone


def randomness(case: Case) -> Verdict:
    """R: the largest distance of an image's logits, of length 1, between three runs."""
    distances = _rerun_distances(case)
    changed = distances > _DEVIATION
    draws = bool(changed.any())
    sentence = (
        f"randomised: judged by the mean of {DRAWS} draws, no image leaves an attack early"
        if draws
        else "the same logits in every run"
    )
    found = evidence_of(case, changed.nonzero()[:, 0])
    verdict: Judgement = "warn" if draws else "pass"
    largest = distances.max().item()
    return Verdict("randomness", largest, _DEVIATION, verdict, len(case.ids), sentence, found)


def company(case: Case) -> Verdict:
    """B: the same between batches of other sizes, of a network that does not draw."""
    if (_rerun_distances(case) > _DEVIATION).any():
        return unjudged("company", "randomised: no two calls can be compared", _DEVIATION)
    whole = _directions(case, case.images, case.batch_size)
    distances = torch.zeros(len(whole), dtype=torch.float64, device=whole.device)
    for size in _BATCHES:
        count = len(whole) if size > 1 else min(_ALONE, len(whole))
        other = _directions(case, case.images[:count], size)
        distances[:count] = torch.maximum(distances[:count], (whole[:count] - other).norm(dim=1))
    changed = distances > _DEVIATION
    count = int(changed.sum())
    return Verdict(
        "company",
        distances.max().item(),
        _DEVIATION,
        "fail" if count >= LEAST else "pass",
        len(whole),
        f"logits of {count} images depend on the images beside them",
        evidence_of(case, changed.nonzero()[:, 0]),
    )


def outputs(case: Case) -> Verdict:
    """O: the deviation of the sum of an image's logits between images, of the range of an image's logits.

    Probabilities and their multiples have one sum, and saturate. So have centred logits, whose sum is 0: they
    are no probabilities.
    """
    made = logits(case.network, case.images, case.batch_size).double()
    spread = (made.amax(1) - made.amin(1)).mean().item()
    sums = made.sum(1)
    statistic = sums.std(correction=0).item() / spread if spread > 0 else 0.0
    is_zero = abs(sums.mean().item()) < 1e-3 * spread
    fails = statistic < _CONSTANT and not is_zero and len(made) >= LEAST
    sentence = (
        "outputs are probabilities or a multiple of them, not logits: every image's have the same sum"
        if fails
        else "outputs are no probabilities"
    )
    return Verdict(
        "outputs", statistic, _CONSTANT, "fail" if fails else "pass", len(made), sentence,
        evidence_of(case, torch.arange(len(made))) if fails else (),
    )  # fmt: skip


def _rerun_distances(case: Case) -> Tensor:
    """float64 [N]: the largest of an image between three runs of the same batches."""
    runs = [_directions(case, case.images, case.batch_size) for _ in range(3)]
    return torch.stack([(one - other).norm(dim=1) for one, other in combinations(runs, 2)]).amax(0)


def _directions(case: Case, images: Tensor, size: int) -> Tensor:
    """Logits [B, classes] of length 1."""
    return normalize(logits(case.network, images, size).double(), dim=1)
