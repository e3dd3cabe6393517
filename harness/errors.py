"""What goes wrong, in words to act on: what came cannot be used, or one piece of work among many failed."""

import difflib
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class HarnessError(Exception):
    """A mistake in what was given (settings, files, folders), told in words a user can act on.

    The command line prints the message without a traceback and exits with 2.
    """


class StartAgain(HarnessError):
    """This process can't go on, but another one with the same command can: the command line starts it."""


@dataclass(frozen=True)
class Failed:
    """A piece of work that failed for good: why, in a line, and the traceback where there is one.

    ``waits``: it was not tried, since something that it needs failed.
    """

    reason: str
    detail: str = ""
    waits: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failed":
        """From what was raised; the type's name stands before all but our own words."""
        lines = str(error).strip().splitlines() or [""]
        reason = (
            str(error)
            if isinstance(error, HarnessError)
            else f"{type(error).__name__}: {lines[-1]}".removesuffix(": ")
        )
        return cls(reason, "".join(traceback.format_exception(error)))


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns, or the ``Failed`` that stands for what it raised."""
    try:
        return work(*arguments)
    except Exception as error:
        return Failed.of(error)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a known name is close to ``name``, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"
