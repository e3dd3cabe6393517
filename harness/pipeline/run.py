"""A study being run: what its steps share, and the ways in which they find, make and give up cells."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from harness import extensions
from harness.cluster.connection import connect
from harness.cluster.nodes import check_nodes
from harness.cluster.workers import Cluster
from harness.data import datasets
from harness.errors import Failed, HarnessError, attempt
from harness.extensions import Moved
from harness.pipeline.steps import ALL_STEPS, STEPS, Step
from harness.pipeline.validation import check_networks
from harness.results.cell_file import Rows
from harness.results.cells import Cell, hardware
from harness.results.store import Store
from harness.study import record
from harness.study.costs import Price, Quote
from harness.study.plan import Plan, packages, plan
from harness.study.spec import BASE, Study

T = TypeVar("T")


class Progress(Protocol):
    """Who is told how far a step is."""

    def begin(self, step: str, total: int, unit: str, done: int) -> None: ...
    def advance(self, step: str, amount: int = 1, note: str = "") -> None: ...
    def end(self, step: str) -> None: ...


class Silent:
    """A ``Progress`` that says nothing."""

    def begin(self, step: str, total: int, unit: str, done: int) -> None: ...
    def advance(self, step: str, amount: int = 1, note: str = "") -> None: ...
    def end(self, step: str) -> None: ...


@dataclass
class Run:
    """A study being run. The data set and the cluster are there once something is missing.

    ``failed`` are the cells that could not be made, and why; they are holes in the tables until a next run
    makes them. ``only`` leaves all other cells alone. ``knows_networks``: whether the plan's keys are those
    of the networks' weights and code from outside, which a run of the bound alone does not ask for.
    ``meanwhile`` is called in a thread while Ray and its workers are started: what will be needed later.
    """

    study: Study
    store: Store
    data: Path | None
    plan: Plan
    progress: Progress
    knows_networks: bool = True
    failed: dict[str, Failed] = field(default_factory=dict)  # by title
    only: frozenset[Cell] | None = None
    meanwhile: Callable[[], object] | None = None
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        return datasets.load(self.study.dataset, self.data)

    @cached_property
    def cluster(self) -> Cluster:
        self._stack.enter_context(_beside(self._get_ready))
        cluster = self._stack.enter_context(connect(self.study.compute, self.plan.code))
        check_nodes(cluster, self.store, self.plan.code)
        return cluster

    def _get_ready(self) -> None:
        """What takes seconds and is needed later, while Ray and its workers are started."""
        if self.meanwhile:
            self.meanwhile()
        trainings = [network.cell for network in self.plan.networks]
        if self.study.compute.workers != 0 and self.knows_networks and self.missing(trainings):
            import_module("harness.cluster.trial")  # Tune

    @cached_property
    def shared_dataset(self) -> Any:
        return self.cluster.share(self.dataset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the cluster."""
        self._stack.__exit__(*error)

    # --- which cells are to be made ---

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are not done."""
        return self.store.missing(cells)

    def todo(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells to be made."""
        return self.missing(cell for cell in cells if self.only is None or cell in self.only)

    def fail(self, cells: Iterable[Cell], failure: Failed) -> None:
        """Record that cells cannot be made: the others go on."""
        for cell in cells:
            self.failed[cell.title] = failure
            self.store.record_failure(cell, failure)

    def lacking(self, step: str, needs: Iterable[Cell]) -> dict[Cell, Failed]:
        """Those of ``needs`` that failed, and why.

        Raises HarnessError where one was never tried: its step comes first.
        """
        failures = {}
        for need in self.missing(dict.fromkeys(needs)):
            failure = self.store.failure(need)
            if failure is None:
                earlier, name = self.step_of(need), self.study.name
                raise HarnessError(
                    f"'{step}' starts from what '{earlier}' makes, and '{need.title}' is missing: "
                    f"run `harness {earlier} {name}` first, or all steps with `harness run {name}`"
                )
            failures[need] = failure
        return failures

    def feasible(self, step: str, cells: Iterable[Cell]) -> set[Cell]:
        """The cells whose needs are done. The others fail with what failed in the first place."""
        cells = list(cells)
        failures = self.lacking(step, (need for cell in cells for need in cell.needs))
        done = set()
        for cell in cells:
            lost = next((need for need in cell.needs if need in failures), None)
            if lost is None:
                done.add(cell)
                continue
            cause = failures[lost]
            reason = cause.reason if cause.waits else f"needs '{lost.title}', which failed: {cause.reason}"
            self.fail([cell], Failed(reason, waits=True))
        return done

    def step_of(self, cell: Cell) -> str:
        """The step that makes a cell from which others are made."""
        if cell.table == "evaluation":
            return "white-box" if cell.partition["access"] == "white_box" else "black-box"
        if cell.table != "training":
            return cell.table
        return next(network.step for network in self.plan.networks if network.cell == cell)

    # --- the work of a step ---

    def keep(self, cell: Cell, rows: Rows, tensors: Mapping[str, np.ndarray] | None = None) -> None:
        """Write a finished cell; one whose code from outside is no longer what it was planned with fails."""
        try:
            self.store.write(cell, rows, tensors, **_facts())
        except Moved as error:
            self.fail([cell], Failed(str(error)))

    def gather(
        self,
        build: Callable[..., Any],
        arguments: tuple[Any, ...],
        work: Callable[[Any, Any], Any],
        groups: list[tuple[T, list[Any]]],
        on_task: Callable[[Any], None] = lambda task: None,
        gpu: bool = True,
    ) -> Iterator[tuple[T, list[Any] | Failed]]:
        """Each group as soon as its last task is done: (group, its results in order, or the first Failed)."""
        tasks = [(index, task) for index, (_, mine) in enumerate(groups) for task in mine]
        parts: dict[int, dict[int, Any]] = {}
        for position, result in self.cluster.map(build, arguments, work, [task for _, task in tasks], gpu):
            index, task = tasks[position]
            mine = parts.setdefault(index, {})
            mine[position] = result
            on_task(task)
            if len(mine) == len(groups[index][1]):
                yield groups[index][0], _whole(parts.pop(index))


@contextmanager
def _beside(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread. What goes wrong in it will be told where it is missed.

    Nobody waits for it where something went wrong inside.
    """
    thread = threading.Thread(target=attempt, args=(work,), name="get ready", daemon=True)
    thread.start()
    yield
    thread.join()


def _facts() -> dict[str, Any]:
    """What a cell was made on and with; on a machine with a GPU its CUDA, too, for which torch is asked."""
    facts = hardware()
    if "gpus" in facts:
        from harness.networks.device import cuda_versions

        facts |= cuda_versions()
    return facts


def _whole(results: dict[int, Any]) -> list[Any] | Failed:
    """The results of a group by position; the first that failed where one did."""
    ordered = [results[position] for position in sorted(results)]
    failures = [result for result in ordered if isinstance(result, Failed)]
    return failures[0] if failures else ordered


def by_column(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows that all have the same columns, column by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


@dataclass(frozen=True)
class StepWork:
    """What a step does: its cells, how the missing ones are made (how many were tried), what it costs."""

    cells: Callable[[Run], Iterable[Cell]]
    make: Callable[[Run], int]
    price: Callable[[Quote], Price]


def work_of(step: Step) -> StepWork:
    """What a step does; imports what computes it."""
    work: StepWork = import_module(f"harness.pipeline.{step.room}").WORK[step.name]
    return work


def run_steps(run: Run, names: tuple[str, ...] = ALL_STEPS, at_end: Callable[[], None] = lambda: None) -> int:
    """Make the missing cells of the named steps, in the paper's order; how many were made.

    What failed is in ``run.failed``. ``at_end`` is called where some were tried, before the cluster is left,
    which takes a second. Raises HarnessError for anything the user can mend; what is finished stays.
    """
    with run:
        tried = sum(work_of(step).make(run) for step in STEPS if step.name in names)
        if tried:
            at_end()
    return tried - len(run.failed)


def price(quote: Quote) -> list[Price]:
    """What every step of a study costs."""
    return [work_of(step).price(quote) for step in STEPS]


def prepare(
    study: Study, store: Store, data: Path | None, progress: Progress, steps: tuple[str, ...] = ALL_STEPS
) -> Run:
    """``check`` the work of these steps, and tell the store what the study consists of."""
    run = check(study, store, data, progress, steps)
    keep_record(run)
    return run


def check(
    study: Study, store: Store, data: Path | None, progress: Progress, steps: tuple[str, ...] = ALL_STEPS
) -> Run:
    """Check everything that can be checked before the work of these steps starts, and plan the study.

    Raises HarnessError: data or weights that are missing, a results folder that can't be used, networks that
    can't.
    """
    store.open()
    datasets.prepare(study.dataset, data)
    # The bound's cells do not depend on any network.
    uses_network = any(step.table != "bound" for step in STEPS if step.name in steps)
    weights, code = _outside(study) if uses_network else ({}, {})
    planned = plan(study, datasets.fingerprint(study.dataset, data), weights, code)
    run = Run(study, store, data, planned, progress, knows_networks=uses_network)
    if uses_network and run.missing(planned.cells()):
        check_networks(study, data, lambda: run.dataset)
    return run


def _outside(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of what a study takes from outside: files with weights by network, code by package.

    Raises HarnessError with all files that are not there.
    """
    weights, mistakes = {}, []
    for name, architecture in {BASE: study.network, **study.models}.items():
        try:
            weights[name] = architecture.initial_weights()
        except HarnessError as error:
            mistakes.append(f"{'network' if name == BASE else 'model'} {name}: {error}")
    if mistakes:
        raise HarnessError("\n  ".join(mistakes))
    extensions.must_be_as_imported(packages(study))
    code = {package: extensions.digest(package) for package in packages(study)}
    return {name: digest for name, digest in weights.items() if digest is not None}, code


def keep_record(run: Run, rekeyed: Mapping[str, Any] | None = None) -> None:
    """Tell the store which cells the study's tables are made from, and what it is to measure.

    ``rekeyed``: of cells that got new keys, to be kept with the record.
    """
    study = run.study
    if not run.knows_networks and _records_bound(run):
        return  # whoever ran more of it knew more
    cells = {step.name: list(work_of(step).cells(run)) for step in STEPS}
    if not run.knows_networks:
        cells = {"bound": cells["bound"]}
    before = run.store.studies().get(study.name, {}).get("about", {})
    run.store.record_study(
        study.name,
        study.model_dump(mode="json"),
        cells,
        record.about(run.plan, before, rekeyed),
        record.planned(run.plan),
    )


def _records_bound(run: Run) -> bool:
    """Whether the store's record of the study already names this very bound: of these images, searched so."""
    recorded = run.store.studies().get(run.study.name)
    if recorded is None:
        return False
    named = {cell["path"] for cell in recorded["cells"] if cell["table"] == "bound"}
    return named == {cell.path.as_posix() for cell in run.plan.bounds.values()}
