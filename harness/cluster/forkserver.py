"""A process that has imported what workers need, and is forked for each worker of a Ray started here.

Importing torch and Ray Tune costs seconds of a core, a fork a few milliseconds; a study starts a dozen
workers and more. Ray runs ``forked`` in place of Python (its ``py_executable``), which has the server
fork itself; where no server answers it is Python after all. The server ends with the process that started it,
and its workers with both: Ray's own watch over them stands still where the clock is put back.
"""

import array
import gc
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.cluster import forked

_SOCKET = "socket"
_MODULES = ("harness.neighbours.searcher", "harness.evaluation.tester", "harness.cluster.rank")
# Reads its settings from the environment as it is imported, and for good: among them the raylet's number, the
# same for all workers, which the first of them brings along.
_RAY = "ray"
_TUNE = "harness.cluster.trial"  # trials need it, the first workers do not


@dataclass(frozen=True)
class _Server:
    """One that was started. Its socket's folder is this user's alone: who connects can run code."""

    process: "subprocess.Popen[bytes]"
    folder: str

    @property
    def command(self) -> str:
        """What Ray is to run instead of Python."""
        return shlex.join([sys.executable, "-I", "-S", forked.__file__, f"{self.folder}/{_SOCKET}"])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


_ahead: list[_Server] = []  # those that wait for ``running``


@contextmanager
def ahead(workers: int | None) -> Iterator[None]:
    """Inside, the first ``running`` has its server at work already: it imports while this process does, too.

    For a study of which nothing is known yet but ``workers``, where a command says. A server that nobody asks
    for ends with this context, or where it is known to be ``unused``.
    """
    joins = os.environ.get("RAY_ADDRESS", "local") != "local" or _has_ray()
    if sys.platform == "linux" and workers != 0 and not joins:
        _ahead.append(_started())
    try:
        yield
    finally:
        unused()


def _has_ray() -> bool:
    """Whether this process is connected to one: what nobody has imported nobody has started."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def unused() -> None:
    """End what was started ahead: no Ray will be started here."""
    while _ahead:
        _ahead.pop().end()


@contextmanager
def running() -> Iterator[str | None]:
    """The command that Ray is to run instead of Python, for the server that runs inside this context.

    None where processes can't be forked safely: elsewhere than on Linux a fork of what has threads, as
    torch's libraries have, may hang.
    """
    if sys.platform != "linux":
        yield None
        return
    server = _ahead.pop() if _ahead else _started()
    try:
        yield server.command
    finally:
        server.end()


def _started() -> _Server:
    """A server. It and its folder end when its stdin does, so with this process whatever ends that."""
    folder = tempfile.mkdtemp(prefix="harness-fork-")
    # A worker of Ray's has one thread a core that it was given; a library reads this when it is loaded.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/{_SOCKET}")
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env=environment,
            start_new_session=True,  # a Ctrl-C is the driver's matter
        )
    return _Server(process, folder)


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
    later: deque[Callable[[], object]] = deque([_warm])  # to be done while nobody waits
    while True:
        ready = {key.fileobj for key, _ in waiting.select(0 if later else None)}
        for child in children.intersection(ready):
            waiting.unregister(child)
            children.remove(child)
            os.close(child)
        if not ready:
            later.popleft()()
        if sys.stdin.fileno() in ready:
            _end(children)
            return None
        if listener not in ready:
            continue
        with suppress(OSError, ValueError):  # of one that was killed while it asked
            connection, _ = listener.accept()
            with connection:
                request = _received(connection)
                if _RAY not in sys.modules:
                    os.environ.update(request.environment)
                    importlib.import_module(_RAY)
                    later.append(partial(importlib.import_module, _TUNE))
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
    gc.freeze()
    gc.enable()
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
    named = request.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in named if folder and folder not in sys.path]
    runpy.run_path(request.arguments[0], run_name="__main__")


def main() -> None:
    """The server: ``python -m harness.cluster.forkserver``, with its socket's number and folder."""
    gc.disable()  # nothing that an import makes is garbage, and looking for some takes a quarter of its time
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
