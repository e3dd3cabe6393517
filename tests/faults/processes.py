"""The processes of this test, by /proc: all that were started here stay below this process, whoever starts
and loses them.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """A process at one moment; ``born`` (clock ticks since boot) tells it from a later one of the same
    number.
    """

    pid: int
    parent: int
    born: int
    state: str
    title: str

    def alive(self) -> bool:
        now = _read(self.pid)
        return now is not None and now.born == self.born and now.state not in "ZX"

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Send a signal; whether the process was there to get it."""
        if not self.alive():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def adopt_orphans() -> None:
    """Processes that lose their parent become children of this one, so that none can hide."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def below(root: int) -> list[Process]:
    """All descendants of a process that live."""
    found = {p.pid: p for p in _all()}
    children: dict[int, list[Process]] = {}
    for process in found.values():
        children.setdefault(process.parent, []).append(process)
    result, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            todo.append(child.pid)
            if child.state not in "ZX":
                result.append(child)
    return result


def titled(root: int, *beginnings: str) -> list[Process]:
    """Descendants that call themselves so; Ray's workers say which method of which actor they run."""
    return [p for p in below(root) if p.title.startswith(beginnings)]


def reap(known: set[int]) -> None:
    """Collect adopted processes that have ended; those of ``known`` belong to a Popen."""
    for process in _all():
        if process.parent == os.getpid() and process.state == "Z" and process.pid not in known:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def gone(processes: list[Process], within_s: float, known: set[int] | None = None) -> list[Process]:
    """Wait until the processes have ended; those that have not.

    ``known``: ``reap`` meanwhile, as is done elsewhere: a raylet that has ended and that nobody collects
    looks alive to its workers, which then wait a minute for the head.
    """
    end = time.monotonic() + within_s
    while (left := [p for p in processes if p.alive()]) and time.monotonic() < end:
        time.sleep(0.1)
        if known is not None:
            reap(known)
    return left


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _read(int(name))):
            yield found


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(fields[1]), int(fields[19]), fields[0], title)
