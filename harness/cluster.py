"""Ray Core at the edge: connect, and spread ordinary functions over sharded workers.

A worker is one actor on one core or one GPU. It builds its state once (and again after a crash) and
then runs tasks one by one. With ``workers: 0`` the same functions run in this process, without Ray.
"""

import logging
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.spec import ComputeSpec

_PRIVATE = "harness_private"  # resource that marks a Ray which one harness process started for itself
_IN_FLIGHT = 2  # tasks queued at a worker, so that it never waits for the driver


@dataclass(frozen=True)
class Cluster:
    """What the work is spread over: ``workers`` that use GPUs where there are some, ``cores`` for work that never does.

    ``local``: this process alone.
    """

    workers: int
    cores: int
    gpus: float
    retries: int
    local: bool

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
        repeated; what a task raises is raised here.
        """
        if not tasks:
            return
        if self.local:
            state = build(*arguments)
            yield from ((position, run(state, task)) for position, task in enumerate(tasks))
            return
        import ray

        options = {"num_cpus": 1, "num_gpus": self.gpu_share if gpu else 0.0}
        pool = _Pool(lambda: ray.remote(_Holder).options(**options).remote(build, run, list(arguments)), self.retries)
        try:
            yield from pool.run(tasks, min(self.workers if gpu else self.cores, len(tasks)))
        finally:
            pool.close()


class _Holder:
    """A worker's state and the function that it runs; placed as an actor by ``Cluster.map``."""

    def __init__(self, build: Callable[..., Any], run: Callable[[Any, Any], Any], arguments: list[Any]) -> None:
        import ray

        values = [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in arguments]
        self._run, self._state = run, build(*values)

    def ready(self) -> None:
        """Answers once the worker is placed and its state is built."""

    def call(self, task: Any) -> Any:
        return self._run(self._state, task)


class _Pool:
    """Actors kept a task ahead. A lost one is replaced and its tasks are repeated, each at most ``retries`` times.

    An actor gets work once it answers: one that finds no free core, on a cluster shared with others, holds nothing up.

    (Ray's own restarts do the same, but warn at every start that the shared images must outlive the actor.)
    """

    def __init__(self, start: Callable[[], Any], retries: int) -> None:
        self._start, self._retries = start, retries
        self._workers: list[Any] = []

    def run(self, tasks: list[Any], count: int) -> Iterator[tuple[int, Any]]:
        """(position, result) for every task, as they come."""
        import ray

        waiting, attempts, results = deque(range(len(tasks))), [0] * len(tasks), 0
        starts = [0] * count
        pending: dict[Any, tuple[int | None, int]] = {}  # reference -> position of the task (None: of the start), of its worker

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
            position, place = pending.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError as error:
                counts, at = (starts, place) if position is None else (attempts, position)
                counts[at] += 1
                if counts[at] > self._retries:
                    what = "in starting" if position is None else f"at task {position} of {len(tasks)}"
                    raise HarnessError(f"a worker crashed again and again ({what}): {error}") from error
                # All that this worker had in hand is lost with it.
                lost = [pending.pop(reference)[0] for reference, (_, worker) in list(pending.items()) if worker == place]
                waiting.extendleft(task for task in (position, *lost) if task is not None)
                start(place)
                continue
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
    """A running Ray cluster where there is one (RAY_ADDRESS, or this machine's), else one started here and stopped after."""
    if compute.workers == 0:
        yield Cluster(workers=1, cores=1, gpus=0, retries=0, local=True)
        return
    # Set before ray reads them: no usage reports, and no warning of how it will treat workers without a GPU.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _attach()
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler aborts with a stack trace, which leaves no time to clean up.
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        workers = compute.workers or int(gpus) or cores
        if workers > cores:
            raise HarnessError(f"compute.workers: {workers} workers need a core each, the Ray cluster has {cores}")
        yield Cluster(workers, compute.workers or cores, gpus, compute.retries, local=False)
    finally:
        if not was_connected:
            ray.shutdown()


def _attach() -> None:
    """Connect to the running cluster, else start a Ray for this process alone; RAY_ADDRESS=local always does that."""
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    named = os.environ.get("RAY_ADDRESS")
    if named != "local":
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            if named:
                raise HarnessError(f"no Ray cluster answers at RAY_ADDRESS={named}") from None
        else:
            # Another harness's own Ray ends with it: it is no cluster to run on.
            if named or _PRIVATE not in ray.cluster_resources():
                return
            ray.shutdown()
    ray.init(address="local", include_dashboard=False, resources={_PRIVATE: 1}, **quiet)
