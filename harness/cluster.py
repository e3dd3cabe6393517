"""Ray Core at the edge: connect, and spread ordinary functions over sharded workers.

A worker is one actor on one core or one GPU. It builds its state once (and again after a crash) and
then runs tasks one by one. With ``workers: 0`` the same functions run in this process, without Ray.
"""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import nodes
from harness.errors import Failed, HarnessError, attempt
from harness.spec import ComputeSpec
from harness.store import Store

_IN_FLIGHT = 2  # tasks queued at a worker, so that it never waits for the driver
_ANSWER_S = 120  # for a node to start a process and say what it has
_REMIND_S = 30  # between two messages while waiting


@dataclass(frozen=True)
class Cluster:
    """What the work is spread over: ``workers`` that use GPUs where there are some, ``cores`` for work that never does.

    ``local``: this process alone. ``interface``: the network interface of trainings, None for the one of Ray's address.
    """

    workers: int
    cores: int
    gpus: float
    retries: int
    local: bool
    interface: str | None = None

    @property
    def gpu_share(self) -> float:
        """GPUs of one worker or training rank: a whole one, or a share that fits one GPU so often as is needed."""
        return 1 / math.ceil(self.workers / self.gpus) if self.gpus else 0.0

    def share(self, value: Any) -> Any:
        """Put a value where all workers read it without a copy; keep what comes back alive."""
        if self.local:
            return value
        import ray

        return ray.put(value)

    def map(
        self,
        build: Callable[..., Any],
        arguments: tuple[Any, ...],
        run: Callable[[Any, Any], Any],
        tasks: list[Any],
        gpu: bool = True,
    ) -> Iterator[tuple[int, Any]]:
        """(position, run(state, task)) for every task in any order, where state = build(*arguments) on each worker.

        ``arguments`` may hold what ``share`` returned. A crashed worker is replaced and its tasks are
        repeated. A task that raises, or at which workers crash again and again, yields a ``Failed`` and
        the others go on; what ``build`` raises is raised here.
        """
        if not tasks:
            return
        if self.local:
            state = build(*arguments)
            yield from ((position, attempt(run, state, task)) for position, task in enumerate(tasks))
            return
        import ray

        options = {"num_cpus": 1, "num_gpus": self.gpu_share if gpu else 0.0}
        pool = _Pool(
            lambda: ray.remote(_Holder).options(**options).remote(build, run, list(arguments)), self.retries
        )
        try:
            yield from pool.run(tasks, min(self.workers if gpu else self.cores, len(tasks)))
        finally:
            pool.close()


class _Holder:
    """A worker's state and the function that it runs; placed as an actor by ``Cluster.map``."""

    def __init__(
        self, build: Callable[..., Any], run: Callable[[Any, Any], Any], arguments: list[Any]
    ) -> None:
        import ray

        values = [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in arguments]
        self._run, self._state = run, build(*values)

    def ready(self) -> None:
        """Answers once the worker is placed and its state is built."""

    def call(self, task: Any) -> Any:
        return attempt(self._run, self._state, task)


class _Pool:
    """Actors kept a task ahead. A lost one is replaced and its tasks are repeated, each at most ``retries`` times.

    An actor gets work once it answers: one that finds no free core, on a cluster shared with others, holds nothing up.

    (Ray's own restarts do the same, but warn at every start that the shared images must outlive the actor.)
    """

    def __init__(self, start: Callable[[], Any], retries: int) -> None:
        self._start, self._retries = start, retries
        self._workers: list[Any] = []

    def run(self, tasks: list[Any], count: int) -> Iterator[tuple[int, Any]]:
        """(position, result or Failed) for every task, as they come."""
        import ray

        waiting, attempts, results = deque(range(len(tasks))), [0] * len(tasks), 0
        starts = [0] * count
        pending: dict[
            Any, tuple[int | None, int]
        ] = {}  # reference -> position of the task (None: of the start), of its worker

        def start(place: int) -> None:
            self._workers[place] = self._start()
            pending[self._workers[place].ready.remote()] = (None, place)

        def submit(place: int) -> None:
            if waiting:
                position = waiting.popleft()
                pending[self._workers[place].call.remote(tasks[position])] = (position, place)

        self._workers = [None] * count
        for place in range(count):
            start(place)
        while results < len(tasks):
            (done,), _ = ray.wait(list(pending), num_returns=1)
            position, place = pending[done]
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                # All that this worker had in hand is lost with it; it does one after the other, so the first was to blame.
                ray.kill(self._workers[place])
                first, *others = [
                    pending.pop(reference)[0]
                    for reference, (_, worker) in list(pending.items())
                    if worker == place
                ]
                counts, at = (starts, place) if first is None else (attempts, first)
                counts[at] += 1
                waiting.extendleft(reversed([task for task in others if task is not None]))
                if counts[at] <= self._retries:
                    waiting.extendleft([] if first is None else [first])
                    start(place)
                    continue
                if first is None:
                    raise HarnessError(f"a worker crashed again and again in starting: {error}") from error
                start(place)
                position, result = first, Failed(f"its worker crashed {counts[at]} times: {error}")
            else:
                del pending[done]
                if position is None:
                    for _ in range(_IN_FLIGHT):
                        submit(place)
                    continue
                submit(place)
            results += 1
            yield position, result

    def close(self) -> None:
        """End the workers."""
        import ray

        for worker in self._workers:
            if worker is not None:
                ray.kill(worker)


@contextmanager
def connect(compute: ComputeSpec) -> Iterator[Cluster]:
    """A running Ray cluster where there is one (RAY_ADDRESS, or this machine's), else one started here and stopped after.

    Waits for what the study asks for. Raises HarnessError where that does not come, or no connection is had.
    """
    if compute.workers == 0:
        yield Cluster(workers=1, cores=1, gpus=0, retries=0, local=True)
        return
    # Set before ray reads them: no usage reports, and no warning of how it will treat workers without a GPU.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    was_connected = ray.is_initialized()
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    found = was_connected or _attach()
    if main and callable(before):
        # Ray puts a handler of its own in its place, which aborts with a stack trace and leaves no time to clean up.
        signal.signal(signal.SIGTERM, before)
    try:
        _wait(compute, compute.wait_s if found else 0)
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        workers = compute.workers or int(gpus) or cores
        yield Cluster(
            workers, compute.workers or cores, gpus, compute.retries, local=False, interface=compute.interface
        )
    finally:
        if not was_connected:
            ray.shutdown()


def _wait(compute: ComputeSpec, limit: float) -> None:
    """Return when the nodes and cores that the study asks for are there; say every now and then what is lacking.

    Raises HarnessError after ``limit`` seconds.
    """
    start, told = time.monotonic(), -math.inf
    while lacking := _lacking(compute):
        waited = time.monotonic() - start
        if waited >= limit:
            raise HarnessError(
                lacking
                + (
                    f"; waited {limit:g} s (compute.wait_s). What becomes of nodes: `ray status`"
                    if limit
                    else ""
                )
            )
        if waited - told >= _REMIND_S:
            told = waited
            print(
                f"waiting for the Ray cluster, {waited:.0f} of at most {limit:g} s (compute.wait_s): {lacking}",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(min(1.0, limit - waited))


def _lacking(compute: ComputeSpec) -> str:
    """What the Ray cluster does not have, empty where it has all."""
    import ray

    alive, cores = _alive(), int(ray.cluster_resources().get("CPU", 0))
    if len(alive) < (compute.nodes or 1):
        there = ", ".join(alive) or "none"
        return f"compute.nodes: {compute.nodes or 1} nodes are asked for, the Ray cluster has {len(alive)} ({there})"
    if cores < (compute.workers or 1):
        return (
            f"compute.workers: {compute.workers or 1} workers need a core each, the Ray cluster has {cores}"
        )
    return ""


def _alive() -> dict[str, str]:
    """Title -> id of the nodes that are there; Ray lists lost ones as well."""
    import ray

    return {
        f"{node['NodeManagerHostname']} {node['NodeManagerAddress']}": node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
    }


def check_nodes(cluster: Cluster, store: Store) -> None:
    """See that all machines have the driver's versions and its results; where there is but one it costs nothing.

    Raises HarnessError that lists what is not so.
    """
    if cluster.local or len(alive := _alive()) < 2:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with store.probe() as probe:
        placed = {
            title: ray.remote(nodes.here)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(store, probe)
            for title, node in alive.items()
        }
        driver, end = nodes.here(store, probe), time.monotonic() + _ANSWER_S
        found: dict[str, nodes.Node | str] = {}
        for title, answer in placed.items():
            try:
                found[title] = ray.get(answer, timeout=max(0.0, end - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                found[title] = f"no answer within {_ANSWER_S} s"
            except ray.exceptions.RayError as error:
                found[title] = str(error)
    lines = nodes.obstacles(driver, found, str(store.folder), cluster.interface)
    if lines:
        raise HarnessError(
            "the machines of the Ray cluster can't work on this study together:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def _attach() -> bool:
    """Connect to the cluster that this machine belongs to (True), else start a Ray for this process alone (False)."""
    import ray
    from ray._private.utils import read_ray_address

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    named = os.environ.get("RAY_ADDRESS")
    # Not "auto": that takes any Ray whose process it sees, another harness's own or one in a container that can't be reached.
    address = named or read_ray_address()
    if address in (None, "local"):
        _keep_token_private()
        ray.init(address="local", include_dashboard=False, **quiet)
        return False
    source = (
        f"RAY_ADDRESS={named}"
        if named
        else f"{address}, which this machine has joined (to run without it: `ray stop`)"
    )
    if not _answers(address):
        raise HarnessError(f"no Ray cluster answers at {source}")
    try:
        ray.init(address=address, **quiet)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        # Another version of Ray or Python, no token or a wrong one: Ray says which.
        raise HarnessError(f"the Ray cluster at {source} can't be used: {error}") from error
    return True


def _answers(address: str) -> bool:
    """Whether something listens there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def _keep_token_private() -> None:
    """Who has Ray's token can run code as this user, and Ray makes it readable by all: make it first, or close it."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # no home to write in: Ray will say so where it matters
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        elif os.environ.get("RAY_AUTH_MODE", "token") == "token" and not {
            "RAY_AUTH_TOKEN",
            "RAY_AUTH_TOKEN_PATH",
        } & set(os.environ):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            made = path.with_name(f".auth_token.{os.getpid()}")
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            try:
                os.link(made, path)  # another process's, made meanwhile, stays
            finally:
                made.unlink()
