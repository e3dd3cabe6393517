"""The one exception a user may see: something they gave us cannot be used."""

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """A mistake in what was given (settings, files, folders), told in words a user can act on.

    The command line prints the message without a traceback and exits with 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a known name is close to ``name``, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"
