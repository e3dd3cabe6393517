"""What attacks by gradients follow: Z, whether there is a direction; F, whether it is the right one."""

import torch
from torch import Tensor

from harness import seeds
from harness.checks.gradients import AGREES, has_no_direction, step_shares
from harness.checks.robustness.verdict import (
    LEAST,
    Case,
    Judgement,
    Verdict,
    evidence_of,
    share,
    unjudged,
)

_PERCENTILE = 0.1
# Of what the gradient says. Planted faults are at 0 or below, the most curved honest network at .34: a VGG16
# trained on 2,000 images of CIFAR-10.
_FOLLOWS = 0.2


def zero_gradient(case: Case) -> Verdict:
    """Z: of E, images whose cross-entropy has a gradient of 0, or none that is finite, at x or near it.

    Near: at x + U(-epsilon, epsilon), where attacks start.
    """
    at = case.right
    if not case.differentiable:
        shown = torch.ones(len(at), dtype=torch.bool, device=at.device)
        return share(
            "zero gradient",
            case,
            at,
            shown,
            "logits are cut off from the image at {} of images: only randomness, company, outputs and "
            "attacks without gradients (transfer, Square) can be judged",
            of_attacks=False,
        )
    clean = case.images[at]
    draw = seeds.uniform(
        seeds.derive(case.seed, "zero gradient"), case.ids[at], torch.zeros_like(at), _values(clean)
    )
    near = (clean + case.epsilon * (2 * draw.view_as(clean) - 1)).clamp(0, 1)
    shown = _has_none(case, clean, at) | _has_none(case, near, at)
    return share("zero gradient", case, at, shown, "gradients are zero or not finite at {} of images")


def finite_difference(case: Case) -> Verdict:
    """F: what a step of half a grey level along the gradient's sign does to the margin, of what it should.

    The 10th percentile over E, 0 where the gradient is. Of the network as it is: the draws of one that draws
    are part of what an attack meets. Between failure and ``AGREES`` it is a warning: curved, or worse.
    """
    at = case.right
    if not len(at):
        return unjudged("finite difference", "no image is classified correctly", _FOLLOWS)
    parts = zip(case.images[at].split(case.batch_size), case.labels[at].split(case.batch_size), strict=True)
    shares = torch.cat([step_shares(case.network, x, labels) for x, labels in parts]).nan_to_num(
        0.0, 0.0, 0.0
    )
    statistic = shares.double().quantile(_PERCENTILE).item()
    below = shares < AGREES
    verdict: Judgement = "pass"
    if statistic < AGREES and int(below.sum()) >= LEAST:
        verdict = "fail" if statistic < _FOLLOWS else "warn"
    worst = at[shares.argsort()][: int(below.sum())]
    return Verdict(
        "finite difference",
        statistic,
        _FOLLOWS,
        verdict,
        len(at),
        f"a small step does {statistic:.2g} times what the gradient says, or less, at a tenth of images",
        evidence_of(case, worst) if verdict != "pass" else (),
    )


def _has_none(case: Case, images: Tensor, at: Tensor) -> Tensor:
    parts = zip(images.split(case.batch_size), case.labels[at].split(case.batch_size), strict=True)
    found = [has_no_direction(case.network, x, labels) for x, labels in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def _values(images: Tensor) -> int:
    return images[0].numel() if len(images) else 1
