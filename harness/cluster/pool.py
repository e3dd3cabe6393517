"""Tasks spread over actors, which are kept a task ahead. Imported late: ray is slow to import."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from harness.errors import Failed, HarnessError, attempt

_IN_FLIGHT = 2  # tasks queued at a worker, so that it never waits for the driver


class _Holder:
    """What a worker runs: a state, and the function that is called with it and each task."""

    def become(self, build: Callable[..., Any], arguments: list[Any], run: Callable[[Any, Any], Any]) -> None:
        """Build the state, in place of an earlier one. Answers once it is there."""
        self._state = None  # of the earlier work: not both at once
        values = [ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in arguments]
        self._run, self._state = run, build(*values)

    def call(self, task: Any) -> Any:
        return attempt(self._run, self._state, task)


@dataclass(frozen=True)
class Work:
    """What workers are for: ``run`` with a task and a state, build(*arguments), on ``gpus`` of one GPU."""

    build: Callable[..., Any]
    arguments: list[Any]
    run: Callable[[Any, Any], Any]
    gpus: float


class Spares:
    """Workers whose work has ended, kept for the next: starting one takes seconds, importing torch."""

    def __init__(self) -> None:
        self._actors: list[tuple[float, Any]] = []  # with the share of a GPU that each has

    def take(self, gpus: float) -> Any | None:
        """One of that share, None where there is none; others make room. It may have died meanwhile."""
        while self._actors:
            share, actor = self._actors.pop()
            if share == gpus:
                return actor
            ray.kill(actor)
        return None

    def add(self, gpus: float, actor: Any) -> None:
        self._actors.append((gpus, actor))

    def end(self) -> None:
        """End them: their cores are free for others."""
        for _, actor in self._actors:
            ray.kill(actor)
        self._actors = []


@dataclass(eq=False)
class _Worker:
    """A worker as the driver sees it: ``starting``, or at the first of its ``tasks``."""

    actor: Any = None
    starting: bool = True
    is_spare: bool = False  # starting, and from other work
    failed_starts: int = 0
    tasks: dict[Any, int] = field(default_factory=dict)  # reference -> position, as it does them


class Pool:
    """Workers at the tasks of one ``Cluster.map``; a lost one is replaced, its tasks are repeated.

    An actor gets work once it answers: one that finds no free core, on a cluster shared with others, holds
    nothing up.

    (Ray's own restarts do the same, but warn at every start that the shared images must outlive the actor.)
    """

    def __init__(self, work: Work, tasks: list[Any], retries: int, spares: Spares) -> None:
        """``retries``: how often a task at which its worker crashed is repeated, and a start that crashed."""
        self._work, self._tasks, self._retries, self._spares = work, tasks, retries, spares
        self._workers: list[_Worker] = []
        self._calls: dict[Any, _Worker] = {}  # reference -> who will answer, in the order of the calls
        self._waiting = deque(range(len(tasks)))  # positions of the tasks that no worker has
        self._crashes = [0] * len(tasks)  # of the workers at each task

    def run(self, count: int) -> Iterator[tuple[int, Any]]:
        """(position, result or Failed) for every task, as they come from ``count`` workers.

        Raises what building a worker's state raises, and HarnessError where a worker crashes again and again
        in that.
        """
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._start(worker)
        results = 0
        while results < len(self._tasks):
            outcome = self._next_answer()
            if outcome is not None:
                results += 1
                yield outcome

    def close(self) -> None:
        """Keep the workers that are idle for other work, end the others."""
        busy = set(self._calls.values())
        for worker in self._workers:
            if worker in busy:
                ray.kill(worker.actor)
            elif worker.actor is not None:
                self._spares.add(self._work.gpus, worker.actor)
        self._workers = []

    def _start(self, worker: _Worker) -> None:
        work, spare = self._work, self._spares.take(self._work.gpus)
        worker.starting, worker.is_spare = True, spare is not None
        worker.actor = spare or ray.remote(_Holder).options(num_cpus=1, num_gpus=work.gpus).remote()
        self._calls[worker.actor.become.remote(work.build, work.arguments, work.run)] = worker

    def _submit(self, worker: _Worker) -> None:
        """Give the worker a task more, if one waits."""
        if not self._waiting:
            return
        position = self._waiting.popleft()
        reference = worker.actor.call.remote(self._tasks[position])
        worker.tasks[reference] = position
        self._calls[reference] = worker

    def _next_answer(self) -> tuple[int, Any] | None:
        """Wait for a call to end and see to its worker; a task's outcome, None where none came of it."""
        (reference,), _ = ray.wait(list(self._calls), num_returns=1)
        worker = self._calls[reference]
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            return self._replace(worker, error)
        del self._calls[reference]
        if worker.starting:
            self._put_to_work(worker)
            return None
        position = worker.tasks.pop(reference)
        self._submit(worker)
        return position, value

    def _put_to_work(self, worker: _Worker) -> None:
        """It has started: give it its first tasks."""
        worker.starting = False
        for _ in range(_IN_FLIGHT):
            self._submit(worker)

    def _replace(self, worker: _Worker, error: Exception) -> tuple[int, Failed] | None:
        """Start a crashed worker anew; the outcome of the task to blame, where that is now given up."""
        ray.kill(worker.actor)
        self._calls = {reference: other for reference, other in self._calls.items() if other is not worker}
        if worker.is_spare and worker.starting:
            given_up = None  # it died while it waited, for which nobody is to blame
        elif worker.starting:
            self._blame_start(worker, error)
            given_up = None
        else:
            given_up = self._blame_task(worker, error)
        self._start(worker)
        return given_up

    def _blame_start(self, worker: _Worker, error: Exception) -> None:
        worker.failed_starts += 1
        if worker.failed_starts > self._retries:
            raise HarnessError(f"a worker crashed again and again in starting: {error}") from error

    def _blame_task(self, worker: _Worker, error: Exception) -> tuple[int, Failed] | None:
        """Have the lost tasks repeated before all others; the one to blame is given up at last."""
        # All that the worker had in hand is lost with it; it does one after another: the first was to blame.
        blamed, *queued = worker.tasks.values()
        worker.tasks.clear()
        self._crashes[blamed] += 1
        if self._crashes[blamed] <= self._retries:
            self._put_back([blamed, *queued])
            return None
        self._put_back(queued)
        return blamed, Failed(f"its worker crashed {self._crashes[blamed]} times: {error}")

    def _put_back(self, positions: list[int]) -> None:
        self._waiting.extendleft(reversed(positions))
