"""What should be weaker than the white box, or equal: attacks without its gradients, and a better one with."""

from harness.attacks.autoattack.auto_pgd import ApgdCe
from harness.attacks.autoattack.square import Square
from harness.checks.robustness.verdict import Case, Verdict, beyond, unjudged

_QUERIES = 200
_APGD_STEPS = 50


def square(case: Case) -> Verdict:
    """S: of E, images that Square fools with 200 queries, which takes no gradient, and the white box does not."""
    attack = Square(method="square", norm="linf", epsilon=(case.epsilon,), queries=_QUERIES)
    fooled = case.fooled(case.survivors, attack, "square")
    return beyond("square", case, fooled, "Square, without a gradient, fools {} that the white box does not")


def transfer(case: Case) -> Verdict:
    """T: of E, images made on another network that fool this one, where its own white box does not."""
    if case.transfer is None:
        return unjudged("transfer", "no other network: images are made on the base network")
    at = case.survivors
    fooled = case.predicted(case.transfer[at], case.ids[at]) != case.labels[at] if len(at) else at.bool()
    sentence = "images made on another network fool {} that the white box does not"
    return beyond("transfer", case, fooled, sentence)


def apgd(case: Case) -> Verdict:
    """Of E, images that APGD on the cross-entropy fools in 50 steps and PGD in 40 does not: PGD is too weak."""
    attack = ApgdCe(method="apgd_ce", norm="linf", epsilon=(case.epsilon,), steps=_APGD_STEPS)
    fooled = case.fooled(case.survivors, attack, "apgd")
    return beyond("apgd", case, fooled, "attack too weak: APGD fools {} that PGD does not", "warn")
