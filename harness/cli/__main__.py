"""The program: `harness`, and the same as `python -m harness.cli`."""

import atexit
import gc
import os
import sys
import threading

from harness.cli import main

# Python looks for garbage after every 700 new objects. What the libraries' imports make never is any, and
# looking through it, again and again, took a sixth of their time.
_NEW_OBJECTS = 10_000


def program() -> None:
    """Run the command that was typed, and end this process with its exit code."""
    gc.set_threshold(_NEW_OBJECTS)
    try:
        main()
    except SystemExit as end:
        _leave(end)


def _leave(end: SystemExit) -> None:
    """End the process at once: Python would take all that was imported apart, for up to two seconds.

    What Python does before that is done: threads are waited for, say one that writes a checkpoint, and exit
    functions called. It ends as ever where the output can't be written, which Python says, or where a
    profiler waits for the end.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # with the pools of threads that nobody has ended
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise end from None
    if sys.getprofile() or not isinstance(end.code, int | None):
        raise end
    os._exit(end.code or 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    program()
