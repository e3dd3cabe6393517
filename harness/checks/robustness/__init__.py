"""Whether a robustness number may be believed: checks of a trained network, with verdicts.

They are listed here in order; a room a family. Each has its paragraph in docs/checks.md.
"""

from harness.attacks.guard import seeded
from harness.checks.robustness.budget import convergence, large_epsilon, second_start
from harness.checks.robustness.gradients import finite_difference, zero_gradient
from harness.checks.robustness.interface import company, outputs, randomness
from harness.checks.robustness.rivals import apgd, square, transfer
from harness.checks.robustness.unit_test import unit_test
from harness.checks.robustness.verdict import Case, RobustnessCheck, Verdict, unjudged
from harness.errors import Failed, attempt
from harness.seeds import derive

ROBUSTNESS_CHECKS: tuple[RobustnessCheck, ...] = (
    RobustnessCheck("randomness", randomness),
    RobustnessCheck("company", company),
    RobustnessCheck("outputs", outputs),
    RobustnessCheck("zero gradient", zero_gradient),
    RobustnessCheck("finite difference", finite_difference, needs_gradient=True),
    RobustnessCheck("large epsilon", large_epsilon, needs_gradient=True),
    RobustnessCheck("convergence", convergence, needs_gradient=True),
    RobustnessCheck("second start", second_start, needs_gradient=True),
    RobustnessCheck("square", square),
    RobustnessCheck("transfer", transfer),
    RobustnessCheck("apgd", apgd, needs_gradient=True),
    RobustnessCheck("unit test", unit_test, needs_gradient=True),
)

__all__ = ["ROBUSTNESS_CHECKS", "Case", "RobustnessCheck", "Verdict", "check_network"]


def check_network(case: Case, checks: tuple[RobustnessCheck, ...] = ROBUSTNESS_CHECKS) -> list[Verdict]:
    """The verdicts of all checks, in order; what a check raises is a verdict of 'none'.

    What a network draws is drawn from the global generators, seeded by the case's seed for each check.
    """
    return [_verdict(case, check) for check in checks]


def _verdict(case: Case, check: RobustnessCheck) -> Verdict:
    with seeded(derive(case.seed, "check", check.name), case.ids[:1], case.epsilon):
        if check.needs_gradient and not case.differentiable:
            return unjudged(check.name, "no gradient: logits are cut off from the image")
        made = attempt(check.judge, case)
    return unjudged(check.name, made.reason) if isinstance(made, Failed) else made
