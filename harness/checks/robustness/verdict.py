"""What a check of a robustness number is: a case to judge, and the verdict on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.autoattack.auto_pgd import ApgdCe
from harness.attacks.batch import frozen, logits
from harness.attacks.gradient_sign import Pgd
from harness.checks.gradients import has_gradient
from harness.evaluation.randomised import draws_of, fresh, judged, perturbed
from harness.seeds import derive
from harness.settings import Norm

# none: it could not be judged; the sentence says why.
Judgement = Literal["pass", "warn", "fail", "none"]

EVIDENCE = 20  # ids of images that a verdict names
LEAST = 2  # images that a failure needs: one may be on the boundary
SHARE = 0.01  # of the images that the network classifies correctly
_RANDOMISED = 20  # images of a network that draws, each of whose gradients takes as many passes as draws
PGD_STEPS = 40
_APGD_STEPS = 50


@dataclass(frozen=True)
class Verdict:
    """What a check says of a network.

    ``statistic`` is None where it can't be computed, ``threshold`` what it is held against; ``images`` that
    it rests on, ``evidence`` the ids of at most 20 that show it. ``norm`` and ``epsilon`` of its attacks.
    """

    check: str
    statistic: float | None
    threshold: float | None
    verdict: Judgement
    images: int
    sentence: str
    evidence: tuple[int, ...] = ()
    norm: Norm | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Case:
    """A network to judge, and its white box at an l-inf radius ``epsilon``: PGD from the true label.

    ``images`` float32 [N, C, H, W] in [0, 1]; ``labels`` and ``ids`` int64 [N] on the same device; the
    network is in eval mode and takes ``batch_size`` of them at once. ``transfer``: adversarial images in
    the same ball and order, made on another network; None where there is none. Draws follow from
    ``seed``.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    ids: Tensor
    epsilon: float
    seed: int
    batch_size: int
    transfer: Tensor | None = field(default=None, repr=False)

    @cached_property
    def judged(self) -> nn.Module:
        """What attacks and predictions are of: where the network draws, its mean over draws."""
        return judged(self.network, self.images)

    @property
    def draws(self) -> int:
        """How many draws that is the mean of; 0 for a deterministic network."""
        return draws_of(self.judged)

    @cached_property
    def differentiable(self) -> bool:
        """Whether logits follow from the image by a graph: False where they are cut off from it."""
        return has_gradient(self.network, self.images[:1])

    @cached_property
    def right(self) -> Tensor:
        """E: positions int64 of the images that the network classifies correctly."""
        return (self.predicted(self.images, self.ids) == self.labels).nonzero()[:, 0]

    @cached_property
    def attacked(self) -> Tensor:
        """Positions int64 of the images that attacks start from: E, or of a network that draws its first."""
        return self.right[:_RANDOMISED] if self.draws else self.right

    @cached_property
    def survivors(self) -> Tensor:
        """Positions int64 of those that the white box does not fool; without a gradient there is none."""
        if not self.differentiable:
            return self.attacked
        return self.attacked[~self.fooled(self.attacked, self.pgd())]

    @cached_property
    def fooled_by_apgd(self) -> Tensor:
        """bool, for each of ``survivors``: whether APGD on the cross-entropy fools it."""
        if not self.differentiable:
            return torch.zeros_like(self.survivors, dtype=torch.bool)
        apgd = ApgdCe(method="apgd_ce", norm="linf", epsilon=(self.epsilon,), steps=_APGD_STEPS)
        return self.fooled(self.survivors, apgd, "apgd")

    @property
    def standing(self) -> Tensor:
        """Positions int64 of those that no attack by gradients fools: neither PGD nor APGD."""
        return self.survivors[~self.fooled_by_apgd]

    def pgd(self, epsilon: float | None = None, steps: int = PGD_STEPS) -> Pgd:
        """The white box's attack, or the same with another radius or more steps."""
        radius = self.epsilon if epsilon is None else epsilon
        return Pgd(method="pgd", epsilon=(radius,), steps=steps, engine="early_stop")

    def adversarial(self, at: Tensor, attack: Attack, *draw: str | int) -> Tensor:
        """The images at these positions, moved by an attack from the true label; ``draw`` names its draws."""
        images, labels, ids = self.images[at], self.labels[at], self.ids[at]
        seed = derive(self.seed, "check", *draw)
        (made,) = perturbed(self.judged, images, labels, ids, attack, seed, self.batch_size)
        return made

    def fooled(self, at: Tensor, attack: Attack, *draw: str | int) -> Tensor:
        """Whether that fools the network, bool, for images at these positions."""
        if not len(at):
            return torch.zeros(0, dtype=torch.bool, device=at.device)
        return self.predicted(self.adversarial(at, attack, *draw), self.ids[at]) != self.labels[at]

    def predicted(self, images: Tensor, ids: Tensor) -> Tensor:
        """Classes int64 [B]; of a network that draws, by the mean of draws that no attack saw."""
        with frozen(self.network), fresh(self.judged, ids):
            return logits(self.judged, images, self.batch_size).argmax(1)


@dataclass(frozen=True)
class RobustnessCheck:
    """One check. ``judge`` may raise, which is a verdict of 'none'."""

    name: str
    judge: Callable[[Case], Verdict]
    needs_gradient: bool = False


def share(
    check: str,
    case: Case,
    at: Tensor,
    shown: Tensor,
    sentence: str,
    severity: Literal["warn", "fail"] = "fail",
    threshold: float = SHARE,
    of_attacks: bool = True,
) -> Verdict:
    """The share of images at positions ``at`` that a fault ``shown`` (bool) is seen in: over a threshold?

    A failure is over it beyond the chance of these images (``least_share``), else it is a warning.
    ``sentence`` is of the fault, and takes a percentage: 'gradients are zero at {} of images'.
    """
    if not len(at):
        return unjudged(check, "no image is classified correctly", threshold)
    count = int(shown.sum())
    statistic = count / len(at)
    is_over = statistic > threshold and count >= LEAST
    is_certain = least_share(count, len(at)) > threshold
    verdict: Judgement = "pass"
    if is_over:
        verdict = severity if is_certain else "warn"
    return Verdict(
        check,
        statistic,
        threshold,
        verdict,
        len(at),
        sentence.format(f"{100 * statistic:.3g} %"),
        evidence_of(case, at[shown]) if is_over else (),
        *(("linf", case.epsilon) if of_attacks else ()),
    )


def least_share(count: int, images: int) -> float:
    """The lower end of Wilson's 95 % interval of a share."""
    z = 1.959964
    share = count / images
    centre = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return (centre - half) / (1 + z * z / images)


def unjudged(check: str, why: str, threshold: float | None = None) -> Verdict:
    """No verdict, and why."""
    return Verdict(check, None, threshold, "none", 0, why)


def evidence_of(case: Case, at: Tensor) -> tuple[int, ...]:
    """The ids of the images at the first of these positions."""
    return tuple(case.ids[at[:EVIDENCE]].tolist())


def beyond(
    check: str,
    case: Case,
    at: Tensor,
    fooled: Tensor,
    sentence: str,
    severity: Literal["warn", "fail"] = "fail",
) -> Verdict:
    """Of the images that attacks start from, the share that a rival ``fooled`` alone.

    bool, one for each of the images at positions ``at``, which the others did not fool.
    """
    shown = torch.zeros(len(case.ids), dtype=torch.bool, device=case.ids.device)
    shown[at] = fooled
    return share(check, case, case.attacked, shown[case.attacked], sentence, severity)
