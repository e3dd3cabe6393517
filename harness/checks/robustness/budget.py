"""Whether more to spend changes the white box: U, a radius that reaches grey; more steps; another start."""

import torch

from harness.checks.robustness.verdict import (
    LEAST,
    PGD_STEPS,
    Case,
    Verdict,
    beyond,
    evidence_of,
    unjudged,
)

_GREY = 0.5  # the radius in l-inf within which every image can be made the same grey


def large_epsilon(case: Case) -> Verdict:
    """U: accuracy under PGD at epsilon .5, where no network can be right on more than its largest class."""
    count = len(case.attacked)
    if not len(case.right):
        return unjudged("large epsilon", "no image is classified correctly")
    fooled = case.fooled(case.attacked, case.pgd(_GREY), "large epsilon")
    standing = case.attacked[~fooled]
    accuracy = (
        len(standing) / count * len(case.right) / len(case.ids)
    )  # of all images, as far as they were attacked
    largest = (torch.bincount(case.labels).max() / len(case.labels)).item()
    fails = accuracy > largest and len(standing) >= LEAST
    return Verdict(
        "large epsilon",
        accuracy,
        largest,
        "fail" if fails else "pass",
        count,
        f"PGD at epsilon {_GREY:g}, which reaches grey, leaves {100 * accuracy:.3g} % right",
        evidence_of(case, standing) if fails else (),
        "linf",
        _GREY,
    )


def convergence(case: Case) -> Verdict:
    """Of E, images that PGD fools in twice as many steps alone."""
    at = case.survivors
    fooled = case.fooled(at, case.pgd(steps=2 * PGD_STEPS))
    return beyond("convergence", case, at, fooled, "twice as many steps fool {} more", "warn")


def second_start(case: Case) -> Verdict:
    """Of E, images that PGD fools from another random start alone."""
    at = case.survivors
    fooled = case.fooled(at, case.pgd(), "second start")
    return beyond("second start", case, at, fooled, "a second random start fools {} more", "warn")
