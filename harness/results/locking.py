"""One driver at a time for each study on the same results; files that a killed process was writing.

Both rest on what the kernel forgets with a process: a lock, and its number among the living.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import HarnessError

_LOOK_EVERY_S = 0.2
_FOREIGN_AGE_S = (
    7 * 24 * 3600
)  # of another machine's temporary file: whether its writer lives cannot be seen from here


@contextmanager
def only_driver(root: Path | None, study: str, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other driver runs the study on these results; ``say`` once who does.

    Other studies run side by side. Where there are no locks, as in an object store (None), drivers aren't
    kept apart: they would do the same work, and write equal cells. Raises HarnessError where the folder can't
    be written.
    """
    if root is None:
        yield
        return
    path = root / "studies" / f".{study}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise HarnessError(
            f"the results folder '{root}' cannot be written: {error.strerror or error}"
        ) from error
    with file:
        waiting = False
        while not _locked(file.fileno()):
            if not waiting:
                waiting = True
                say(
                    f"study '{study}' is being run on these results by {_holder(path)}: waiting until it ends"
                )
            time.sleep(_LOOK_EVERY_S)
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # a full disk is told by what is written next
            file.truncate(0)
            file.write(json.dumps(holder))
            file.flush()
        yield


def _locked(file: int) -> bool:
    """Take the lock; False while another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


# --- temporary files ---


def temporary(path: Path) -> Path:
    """A new name beside a file for what is to replace it: hidden, and saying which process writes it."""
    # The leading dot hides it from pyarrow, the suffix from DuckDB's glob.
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")


def scratch(root: Path) -> Path:
    """This process's folder for what only it needs while it works."""
    return root / f".scratch.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp"


def remove_abandoned(root: Path | None) -> None:
    """Remove what `temporary` and `scratch` named for processes that ended; that of living ones stays."""
    if root is None:
        return
    for folder, folders, files in os.walk(root):  # passes over folders that go meanwhile
        for name in [name for name in (*folders, *files) if name.startswith(".") and name.endswith(".tmp")]:
            path = Path(folder, name)
            if _abandoned(path):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        folders[:] = [name for name in folders if not name.startswith(".")]


def _abandoned(path: Path) -> bool:
    machine, _, rest = path.name.split(".")[-2].partition("-")
    pid = rest.partition("-")[0]
    if not pid.isdigit():
        return False
    if machine == _machine():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE_S
    return False


def _machine() -> str:
    """What tells where process numbers mean the same: the host, since it was started, and the container."""
    parts = [platform.node(), str(uuid.getnode())]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with suppress(OSError):
            parts.append(read())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
