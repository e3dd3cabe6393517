"""What should be weaker than attacks by the network's gradients: attacks without them; and a better one with.

The first two are held against PGD and APGD together: what PGD alone misses may be its own weakness.
"""

from harness.attacks.autoattack.square import Square
from harness.checks.robustness.verdict import Case, Verdict, beyond, unjudged

_QUERIES = 200


def square(case: Case) -> Verdict:
    """S: of E, images that Square fools in 200 queries, and no attack by gradients does."""
    attack = Square(method="square", norm="linf", epsilon=(case.epsilon,), queries=_QUERIES)
    at = case.standing
    sentence = "Square, without a gradient, fools {} that no attack by gradients does"
    return beyond("square", case, at, case.fooled(at, attack, "square"), sentence)


def transfer(case: Case) -> Verdict:
    """T: of E, images made on another network that fool this one, where no attack by its gradients does."""
    if case.transfer is None:
        return unjudged("transfer", "no images of another network: they are made on the base network")
    at = case.standing
    fooled = case.predicted(case.transfer[at], case.ids[at]) != case.labels[at] if len(at) else at.bool()
    sentence = "images made on another network fool {} that no attack by gradients does"
    return beyond("transfer", case, at, fooled, sentence)


def apgd(case: Case) -> Verdict:
    """Of E, images that APGD on the cross-entropy fools in 50 steps and PGD in 40 does not."""
    sentence = "attack too weak: APGD fools {} that PGD does not"
    return beyond("apgd", case, case.survivors, case.fooled_by_apgd, sentence, "warn")
