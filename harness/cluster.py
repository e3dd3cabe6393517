"""Ray Core at the edge: connect, and spread ordinary functions over sharded workers.

A worker is one actor on one core or one GPU. It builds its state once (and again after a crash) and
then runs tasks one by one. With ``workers: 0`` the same functions run in this process, without Ray.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.spec import ComputeSpec

_IN_FLIGHT = 2  # tasks queued at a worker, so that it never waits for the driver


@dataclass(frozen=True)
class Cluster:
    """What the work is spread over. ``local``: this process alone."""

    workers: int
    gpus: float
    retries: int
    local: bool

    @property
    def gpu_share(self) -> float:
        """GPUs of one worker or training rank: whole ones where there are enough, else a fraction."""
        return min(1.0, self.gpus / self.workers) if self.gpus else 0.0

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

        ``arguments`` may hold what ``share`` returned. A crashed worker is started again and repeats
        the task it was at; what a task raises is raised here.
        """
        if not tasks:
            return
        if self.local:
            state = build(*arguments)
            yield from ((position, run(state, task)) for position, task in enumerate(tasks))
            return
        import ray

        share = self.gpu_share if gpu else 0.0
        holder = ray.remote(_Holder).options(num_cpus=1, num_gpus=share, max_restarts=self.retries, max_task_retries=-1)
        # In a list, so that Ray hands references over as they are; the driver keeps what they name alive.
        workers: list[Any] = [holder.remote(build, run, list(arguments)) for _ in range(min(self.workers, len(tasks)))]
        try:
            yield from _dispatch(workers, tasks)
        finally:
            for worker in workers:
                ray.kill(worker)


class _Holder:
    """A worker's state and the function that it runs; placed as an actor by ``Cluster.map``."""

    def __init__(self, build: Callable[..., Any], run: Callable[[Any, Any], Any], arguments: list[Any]) -> None:
        import ray

        values = [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in arguments]
        self._run, self._state = run, build(*values)

    def call(self, task: Any) -> Any:
        return self._run(self._state, task)


def _dispatch(workers: list[Any], tasks: list[Any]) -> Iterator[tuple[int, Any]]:
    """Keep every worker a task ahead; yield results as they come."""
    import ray

    waiting = iter(enumerate(tasks))
    pending: dict[Any, tuple[int, Any]] = {}

    def submit(worker: Any) -> None:
        for position, task in waiting:
            pending[worker.call.remote(task)] = (position, worker)
            return

    for _ in range(_IN_FLIGHT):
        for worker in workers:
            submit(worker)
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        position, worker = pending.pop(done)
        submit(worker)
        try:
            result = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise HarnessError(f"a worker crashed again and again (task {position} of {len(tasks)}): {error}") from error
        yield position, result


@contextmanager
def connect(compute: ComputeSpec) -> Iterator[Cluster]:
    """A running Ray cluster where there is one (RAY_ADDRESS, or this machine's), else one started here and stopped after."""
    if compute.workers == 0:
        yield Cluster(workers=1, gpus=0, retries=0, local=True)
        return
    # Set before ray reads them: no usage reports, and none of its C++ log lines among the progress bars
    # (one warns of restartable actors whose arguments are references; ours outlive the actors).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    was_connected = ray.is_initialized()
    if not was_connected:
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise HarnessError(f"no Ray cluster answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']}") from None
            ray.init(address="local", include_dashboard=False, **quiet)
    try:
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        workers = compute.workers or int(gpus) or cores
        if workers > cores:
            raise HarnessError(f"compute.workers: {workers} workers need a core each, the Ray cluster has {cores}")
        yield Cluster(workers=workers, gpus=gpus, retries=compute.retries, local=False)
    finally:
        if not was_connected:
            ray.shutdown()
