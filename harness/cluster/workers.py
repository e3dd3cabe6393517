"""What a study's work is spread over: the workers of a cluster, or this process alone."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.errors import attempt

if TYPE_CHECKING:
    from harness.cluster.pool import Spares


@dataclass(frozen=True)
class Cluster:
    """``workers`` that use GPUs where there are some, ``cores`` for work that never does.

    A worker is one actor on one core or one GPU. It builds its state once (and again after a crash), runs
    tasks one by one, and is then kept for other work until ``release``. ``local``: this process alone,
    without Ray. ``gpus``: those of the cluster. ``retries``: how often a crashed worker's task, or training,
    is repeated. ``interface``: the network interface of trainings, None for the one of Ray's address.
    """

    workers: int
    cores: int
    gpus: float
    retries: int
    local: bool
    interface: str | None = None

    @property
    def gpu_share(self) -> float:
        """GPUs of one worker or training rank: a whole one, or a share that fits as often as is needed."""
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
        """(position, run(state, task)) for every task, in any order; a worker's state = build(*arguments).

        ``arguments`` may hold what ``share`` returned. A crashed worker is replaced and its tasks are
        repeated. A task that raises, or at which workers crash again and again, yields a ``Failed`` and the
        others go on; what ``build`` raises is raised here, and HarnessError where workers crash again and
        again in starting.
        """
        if not tasks:
            return
        if self.local:
            state = build(*arguments)
            for position, task in enumerate(tasks):
                yield position, attempt(run, state, task)
            return
        from harness.cluster.pool import Pool, Work

        work = Work(build, list(arguments), run, self.gpu_share if gpu else 0.0)
        count = min(self.workers if gpu else self.cores, len(tasks))
        with closing(Pool(work, tasks, self.retries, self._spares)) as pool:
            yield from pool.run(count)

    def release(self) -> None:
        """End the workers that ``map`` keeps for its next call, before something else needs their cores."""
        if not self.local:
            self._spares.end()

    @cached_property
    def _spares(self) -> "Spares":
        from harness.cluster.pool import Spares

        return Spares()
