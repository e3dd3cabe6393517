"""MLflow's user interface over the runs that `sync` writes: a process of its own, ended with this one.

MLflow is started, not imported.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from harness.errors import HarnessError
from harness.results.store import Store
from harness.tracking.destination import artifact_folder, destination
from harness.tracking.links import all_links, has_runs

_START_TIMEOUT_S = 60
_SETTINGS = {
    # With its job runners the server is 15 processes and takes five times as long to answer.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def serve(
    store: Store,
    port: int = 5000,
    host: str = "127.0.0.1",
    on_ready: Callable[[dict[str, dict[str, str]]], None] | None = None,
    uri: str | None = None,
) -> None:
    """Show the runs that were synced to ``uri``, the results' own database unless given.

    ``on_ready`` gets study -> its `links`. A database gets a user interface of its own until Ctrl-C; a server
    has one, so its links are all there is to do. Ours has no authentication: any host but the loopback shows
    the results to everyone who reaches it. Raises HarnessError where there are no runs, the port cannot be
    used, or MLflow ends by itself.
    """
    to = destination(store, uri)
    show = on_ready or (lambda links: None)
    if to.is_server:
        show(all_links(store, to.uri, uri))
        return
    if to.own and not any(has_runs(store, study) for study in store.studies()):
        raise HarnessError(
            f"'{to}' has no runs: `harness run STUDY` writes some, "
            "`harness track` where the results are there"
        )
    _check_port(host, port)
    command = _command(to.uri, artifact_folder(to).as_uri(), host, port)
    base_url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with tempfile.TemporaryFile() as log, _termination_unwinds():
        # Its own session: the group can be ended as a whole, and Ctrl-C reaches only this process.
        child = subprocess.Popen(
            command,
            env=os.environ | _SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(f"{base_url}/health", child)
            show(all_links(store, base_url, uri))
            child.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(child)
        log.seek(0)
        words = log.read().decode(errors="replace")[-2000:].strip()
        raise HarnessError(f"MLflow's server ended by itself:\n{words}")


def _command(uri: str, artifacts: str, host: str, port: int) -> list[str]:
    """What starts MLflow's server over a database."""
    options = {
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": uri,
        "--default-artifact-root": artifacts,
        # MLflow's own list lets any name through that begins as a private address does: 10.example.org.
        "--allowed-hosts": ",".join(_allowed_hosts(host)),
    }
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts", *words]


def _allowed_hosts(host: str) -> Iterator[str]:
    for name in ("127.0.0.1", "localhost", host):
        yield name
        yield f"{name}:*"  # any port: there may be a tunnel in between


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise HarnessError(
                f"port {port} of {host} cannot be used ({error}): choose another with --port"
            ) from error


def _wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    """Return once the address answers or the child has ended; HarnessError when it takes too long."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while child.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if time.monotonic() > deadline:
            raise HarnessError(f"MLflow's server did not answer at {url} within {_START_TIMEOUT_S} s")
        time.sleep(0.1)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole process group: politely, then not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, and hear Ctrl-C even where a shell started us ignoring it.

    So no server is left behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        sign: signal.signal(sign, signal.default_int_handler) for sign in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
