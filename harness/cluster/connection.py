"""The Ray cluster that a study runs on: joined where there is one, else started here, and waited for."""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.cluster import clock, forkserver, nodes, shipping
from harness.cluster.workers import Cluster
from harness.errors import HarnessError
from harness.study.compute import ComputeSpec

_REMIND_S = 30  # between two messages while waiting
_PUT_BACK_S = 0.01  # between two looks after SIGTERM's handler
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


@contextmanager
def connect(compute: ComputeSpec, code: Iterable[str] = ()) -> Iterator[Cluster]:
    """A running Ray cluster where there is one (RAY_ADDRESS, or this machine's), else one started here.

    Waits for what the study asks for; what was started here is stopped after. ``code``: packages that its
    workers must find: to a cluster those of --code are sent as they are now, a Ray started here finds them
    where they lie, one that this process had before keeps its own path.

    Raises HarnessError where what is asked for does not come, no connection is had, or a package can't be
    sent; StartAgain where a Ray started here can't go on in time.
    """
    if compute.workers == 0:
        forkserver.unused()
        yield Cluster(workers=1, cores=1, gpus=0, retries=0, local=True)
        return
    # Set before ray reads them: no usage reports, and no warning of how it will treat workers without a GPU.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Nor workers that wait for whoever comes first: ours are started otherwise.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    import ray

    was_connected = ray.is_initialized()
    with ExitStack() as stack:
        with _sigterm_as_before():
            is_shared = was_connected or _attach(code, stack)
        _wait(compute, compute.wait_s if is_shared else 0)
        cluster = _cluster(compute)
        stack.callback(cluster.release)
        yield cluster


def _cluster(compute: ComputeSpec) -> Cluster:
    """What of the cluster that is there the study uses."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
    return Cluster(
        workers=compute.workers or int(gpus) or cores,
        cores=compute.workers or cores,
        gpus=gpus,
        retries=compute.retries,
        local=False,
        interface=compute.interface,
    )


@contextmanager
def _sigterm_as_before() -> Iterator[None]:
    """Ray puts a handler of its own, which aborts with a stack trace and leaves no time to clean up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and callable(before):
            signal.signal(signal.SIGTERM, before)


def _end_ray() -> None:
    """``ray.shutdown``, during and after which SIGTERM does what it did before.

    Ray gives it back to the system, behind Python's back and a second before it has ended its processes: it
    would kill this one at once. Only the main thread can put the handler back, so another one ends Ray.
    """
    import ray

    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        ray.shutdown()
        return
    ending = threading.Thread(target=ray.shutdown, name="ray.shutdown")
    ending.start()
    while ending.is_alive():
        ending.join(_PUT_BACK_S)
        signal.signal(signal.SIGTERM, before)


# --- waiting ---


def _wait(compute: ComputeSpec, limit: float) -> None:
    """Return when the nodes and cores that the study asks for are there; say now and then what is lacking.

    Raises HarnessError after ``limit`` seconds.
    """
    start, reminded = time.monotonic(), -math.inf
    while lacking := _lacking(compute):
        waited = time.monotonic() - start
        if waited >= limit:
            patience = f"; waited {limit:g} s (compute.wait_s). What becomes of nodes: `ray status`"
            raise HarnessError(lacking + (patience if limit else ""))
        if waited - reminded >= _REMIND_S:
            reminded = waited
            progress = f"{waited:.0f} of at most {limit:g} s (compute.wait_s)"
            print(f"waiting for the Ray cluster, {progress}: {lacking}", file=sys.stderr, flush=True)
        time.sleep(min(1.0, limit - waited))


def _lacking(compute: ComputeSpec) -> str:
    """What the Ray cluster does not have, empty where it has all."""
    import ray

    asked_nodes, asked_cores = compute.nodes or 1, compute.workers or 1
    alive, cores = nodes.alive(), int(ray.cluster_resources().get("CPU", 0))
    if len(alive) < asked_nodes:
        titles = ", ".join(alive) or "none"
        return (
            f"compute.nodes: {asked_nodes} nodes are asked for, the Ray cluster has {len(alive)} ({titles})"
        )
    if cores < asked_cores:
        return f"compute.workers: {asked_cores} workers need a core each, the Ray cluster has {cores}"
    return ""


# --- joining or starting Ray ---


def _attach(code: Iterable[str], stack: ExitStack) -> bool:
    """Join the cluster that this machine belongs to (True), else start a Ray for this process (False).

    ``stack``: gets what ends it.
    """
    import ray

    named = os.environ.get("RAY_ADDRESS")
    # Not "auto": that takes any Ray whose process it sees, another harness's own or one in a container that
    # can't be reached.
    address = named or _joined_address()
    if address in (None, "local"):
        watch = stack.enter_context(clock.watched())
        _keep_token_private()
        # Its workers are forked with this environment.
        with shipping.on_path(code):
            python = stack.enter_context(forkserver.running())
            environment = {"py_executable": python} if python else None
            stack.callback(_end_ray)
            if watch:
                stack.callback(watch.end)  # before Ray is ended, which takes its time
            ray.init(address="local", include_dashboard=False, runtime_env=environment, **_QUIET)
        return False
    forkserver.unused()
    joined = f"{address}, which this machine has joined (to run without it: `ray stop`)"
    source = f"RAY_ADDRESS={named}" if named else joined
    if not _answers(address):
        raise HarnessError(f"no Ray cluster answers at {source}")
    try:
        _join(address, code)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        # Another version of Ray or Python, no token or a wrong one: Ray says which.
        raise HarnessError(f"the Ray cluster at {source} can't be used: {error}") from error
    stack.callback(_end_ray)
    return True


def _joined_address() -> str | None:
    """The address of the cluster that this machine was made a part of by `ray start`; None where of none."""
    try:
        from ray._private.utils import read_ray_address
    except ImportError:  # no public name: another version may have moved it
        file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        return file.read_text().strip() if file.exists() else None
    address: str | None = read_ray_address()
    return address


def _join(address: str, code: Iterable[str]) -> None:
    """Connect to the cluster there, and send it the packages."""
    import ray

    with shipping.runtime_env(code) as environment:
        try:
            ray.init(address=address, runtime_env=environment, **_QUIET)
        except ray.exceptions.RuntimeEnvSetupError as error:
            ray.shutdown()
            reason = str(error.__cause__ or error).split(". ")[0]  # then comes advice on Ray's own settings
            raise HarnessError(
                f"a package of --code can't be sent to Ray's workers: {reason}. A .rayignore in its folder "
                "names files that may stay behind"
            ) from error


def _answers(address: str) -> bool:
    """Whether something listens there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def _keep_token_private() -> None:
    """Who has Ray's token can run code as this user, and Ray lets all read it: make it first, or close it."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # no home to write in: Ray will say so where it matters
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        elif _wants_token_file():
            _make_token(path)


def _wants_token_file() -> bool:
    """Whether Ray would look for its token in the user's home."""
    elsewhere = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    return os.environ.get("RAY_AUTH_MODE", "token") == "token" and not elsewhere


def _make_token(path: Path) -> None:
    """A new token, at no moment readable by others; one that another process made meanwhile stays."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f".auth_token.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)
    finally:
        draft.unlink()
