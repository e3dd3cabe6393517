"""What a check is, and how the checks of one thing are run."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from torch import Tensor

from harness.attacks.guard import time_limit
from harness.errors import Failed

Case = TypeVar("Case")
# A note: it works, and whoever reads its numbers should know. Left out: it rests on one that failed.
Status = Literal["ok", "note", "failed", "left out"]

ROUNDING = 1e-4  # of the largest value: what another order of summation in a kernel may change


@dataclass(frozen=True)
class Finding:
    """What one check found, in words."""

    status: Status
    came: str = ""


@dataclass(frozen=True)
class Check(Generic[Case]):
    """One thing that must hold.

    ``find`` may raise, which is a failure. ``rests_on`` names checks without which this one means nothing:
    it is left out where one of them failed or was left out.
    """

    name: str
    expected: str
    find: Callable[[Case], Finding]
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What came of a check of one thing, e.g. of 'attack mine'."""

    thing: str
    check: str
    status: Status
    expected: str
    came: str

    @property
    def said(self) -> str:
        """What was expected, and what came; where all is well, that is a figure at most."""
        if self.status == "ok":
            return f"{self.expected}: {self.came}" if self.came else self.expected
        return f"expected {self.expected}; got {self.came}"


def held(holds: bool, came: str) -> Finding:
    """Ok without a word, or failed with what came."""
    return Finding("ok") if holds else Finding("failed", came)


def results(
    thing: str, case: Case, checks: Sequence[Check[Case]], limit_s: float | None = None
) -> Iterator[Result]:
    """The checks of one thing, in order, each as soon as it is done and within ``limit_s``."""
    lost: set[str] = set()  # names of checks that failed or were left out
    for check in checks:
        missing = [name for name in check.rests_on if name in lost]
        if missing:
            lost.add(check.name)
            yield Result(thing, check.name, "left out", check.expected, f"rests on {', '.join(missing)}")
            continue
        finding = _found(check, case, limit_s)
        if finding.status == "failed":
            lost.add(check.name)
        yield Result(thing, check.name, finding.status, check.expected, finding.came)


def _found(check: Check[Case], case: Case, limit_s: float | None) -> Finding:
    began = time.monotonic()
    try:
        with time_limit(limit_s, check.name):
            return check.find(case)
    except (Exception, SystemExit) as error:
        if limit_s is not None and time.monotonic() - began >= limit_s:
            return Finding("failed", f"nothing within {limit_s:g} s")
        return Finding("failed", Failed.of(error).reason)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors of one shape, as a share of the largest value of the first."""
    largest = max(one.abs().max().item(), 1e-12)
    return (one - other).abs().max().item() / largest
