"""Whether a number may be believed: what must hold of code that is not the harness's, before it makes any.

A check is a name, what is expected, and a function of one thing that says what came; ``check`` is the
contract and runs them. They are listed at the end of their rooms: ``network`` (with ``gradients``),
``attack`` and ``defense``. Each has its paragraph in docs/validate.md.
"""

from harness.checks.attack import ATTACK_CHECKS, AttackCase
from harness.checks.check import Check, Result, results
from harness.checks.defense import DEFENSE_CHECKS, DefenseCase
from harness.checks.network import NETWORK_CHECKS, NetworkCase

__all__ = [
    "ATTACK_CHECKS",
    "DEFENSE_CHECKS",
    "NETWORK_CHECKS",
    "AttackCase",
    "Check",
    "DefenseCase",
    "NetworkCase",
    "Result",
    "results",
]
