"""A process that has imported what workers need, and is forked for each worker of a Ray started here.

Importing torch and Ray Tune costs six seconds of a core, a fork a few milliseconds; a study starts a dozen
workers and more. Ray runs ``forked`` in place of Python (its ``py_executable``), which has the server
fork itself; where no server answers it is Python after all. The server ends with the process that started it,
and its workers with both: Ray's own watch over them stands still where the clock is put back.
"""

import array
import importlib
import json
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import forked

_MODULES = ("harness.neighbours.searcher", "harness.evaluation.tester", "harness.cluster.rank")
# Imports Ray, which reads its settings from the environment as it is imported, and for good: among them the
# raylet's number, the same for all workers, which the first of them brings along.
_WITH_RAY = "harness.cluster.trial"


@contextmanager
def running() -> Iterator[str | None]:
    """The command that Ray is to run instead of Python, for the server that runs inside this context.

    None where processes can't be forked safely: elsewhere than on Linux a fork of what has threads, as
    torch's libraries have, may hang.
    """
    if sys.platform != "linux":
        yield None
        return
    folder = tempfile.mkdtemp(prefix="harness-fork-")  # of this user alone: who may connect can run code
    path = str(Path(folder) / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        server = _start(listener, folder)
    try:
        yield shlex.join([sys.executable, "-I", "-S", forked.__file__, path])
    finally:
        server.kill()
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _start(listener: socket.socket, folder: str) -> "subprocess.Popen[bytes]":
    """The server. It and its folder end when its stdin does, so with this process whatever ends that."""
    # A worker of Ray's has one thread a core that it was given; a library reads this when it is loaded.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "-m", __name__, str(listener.fileno()), folder]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env=environment,
        start_new_session=True,  # a Ctrl-C is the driver's matter
    )


@dataclass(frozen=True)
class _Request:
    """A worker to be: what Ray would have run as Python's arguments, and the standard streams."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]


def _serve(listener: socket.socket) -> _Request | None:
    """Fork for every request until stdin ends: None then, the children ended; in each of them its request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes note of the children's ends
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)
    children: set[int] = set()
    is_warm = False
    while True:
        ready = {key.fileobj for key, _ in waiting.select(None if is_warm else 0)}
        for child in children.intersection(ready):
            waiting.unregister(child)
            children.remove(child)
            os.close(child)
        if not ready:
            _warm()
            is_warm = True
        if sys.stdin.fileno() in ready:
            _end(children)
            return None
        if listener not in ready:
            continue
        with suppress(OSError, ValueError):  # of one that was killed while it asked
            connection, _ = listener.accept()
            with connection:
                request = _received(connection)
                if _WITH_RAY not in sys.modules:
                    os.environ.update(request.environment)
                    importlib.import_module(_WITH_RAY)
                if (number := os.fork()) == 0:
                    waiting.close()
                    for child in children:
                        os.close(child)
                    return request
                for stream in request.streams:
                    os.close(stream)
                watched = _watched(number)
                if watched is not None:
                    waiting.register(watched, selectors.EVENT_READ)
                    children.add(watched)
                connection.sendall(b"forked")


def _watched(number: int) -> int | None:
    """A file that tells when a child ends, and names it alone; None for one that has, or before Linux 5.3."""
    try:
        return os.pidfd_open(number)
    except OSError:
        return None


def _end(children: set[int]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)


def _warm() -> None:
    """Have torch and pyarrow import what they import when they are first used: 1.4 s, once nobody waits.

    An optimizer brings torch's compiler, an array pandas.
    """
    import pyarrow
    import torch

    torch.optim.Adam([torch.zeros(1)])
    pyarrow.array(torch.zeros(1).numpy())


def _received(connection: socket.socket) -> _Request:
    """What ``forked`` sends: its streams with the first bytes, then its words as JSON."""
    size = array.array("i").itemsize
    first, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(3 * size))
    streams = array.array("i")
    for _, _, payload in ancillary:
        streams.frombytes(payload)
    pieces = [first]
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    words = json.loads(b"".join(pieces))
    return _Request(words["arguments"], words["environment"], words["folder"], list(streams))


def _become(request: _Request) -> None:
    """Be the Python that was asked for, but for the modules that are there already."""
    os.setpgrp()  # with a worker Ray ends its process group
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.argv = request.arguments
    sys.path[0] = str(Path(request.arguments[0]).parent)
    runpy.run_path(request.arguments[0], run_name="__main__")


def main() -> None:
    """The server: ``python -m harness.cluster.forkserver``, with its socket's number and folder."""
    number, folder = sys.argv[1:]
    listener = socket.socket(fileno=int(number))
    for name in _MODULES:
        importlib.import_module(name)
    request = _serve(listener)
    listener.close()
    if request is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _become(request)


if __name__ == "__main__":
    main()
