"""A study from images to tables, step by step, reading as the paper does.

Each step makes the cells that are missing and leaves the others alone; a cell is written as soon as
it is complete. So any command may be killed at any moment and run again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from harness import STEPS, bound, checkpoints, datasets
from harness.cells import Cell, hardware
from harness.cluster import Cluster, check_nodes, connect
from harness.errors import Failed, HarnessError
from harness.partition import index as make_index
from harness.plan import Attack, Evaluation, Network, Plan, cell_title, plan, white_box
from harness.spec import Study
from harness.store import Store
from harness.workers import TEACHER_BLOCK, Searcher, Tester

T = TypeVar("T")


class Progress(Protocol):
    """Who is told how far a step is."""

    def begin(self, step: str, total: int, unit: str, done: int) -> None: ...
    def advance(self, step: str, amount: int = 1, note: str = "") -> None: ...
    def end(self, step: str) -> None: ...


@dataclass
class Run:
    """A study being run: what its steps share. The data set and the cluster are there once something is missing.

    ``failed`` are the cells that could not be made, and why; they are holes in the tables until a next run makes them.
    ``only`` leaves all other cells alone. ``chosen`` are the white box's cells, where the store does not say them.
    """

    study: Study
    store: Store
    data: Path | None
    plan: Plan
    progress: Progress
    failed: dict[str, Failed] = field(default_factory=dict)  # by title
    only: frozenset[Cell] | None = None
    chosen: tuple[Evaluation, ...] = ()
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        return datasets.load(self.study.dataset, self.data, self.study.seed)

    @cached_property
    def cluster(self) -> Cluster:
        cluster = self._stack.enter_context(connect(self.study.compute))
        check_nodes(cluster, self.store)
        return cluster

    @cached_property
    def shared_dataset(self) -> Any:
        return self.cluster.share(self.dataset)

    def close(self) -> None:
        self._stack.close()

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are not done."""
        return self.store.missing(cells)

    def todo(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells to be made."""
        return self.missing(cell for cell in cells if self.only is None or cell in self.only)

    def fail(self, cells: Iterable[Cell], failure: Failed) -> None:
        """Record that cells cannot be made: the others go on."""
        for cell in cells:
            self.failed[cell_title(cell)] = failure
            self.store.record_failure(cell, cell_title(cell), failure)

    def lacking(self, step: str, needs: Iterable[Cell]) -> dict[Cell, str]:
        """Those of ``needs`` that failed, and why. Raises HarnessError where one was never tried: its step comes first."""
        reasons = {}
        for need in self.missing(dict.fromkeys(needs)):
            reason = self.store.failure(need)
            if reason is None:
                of = _step_of(need)
                raise HarnessError(
                    f"'{step}' starts from what '{of}' makes, and '{cell_title(need)}' is missing: "
                    f"run `harness {of} {self.study.name}` first, or all steps with `harness run {self.study.name}`"
                )
            reasons[need] = reason
        return reasons

    def feasible(self, step: str, cells: Iterable[Cell]) -> set[Cell]:
        """The cells whose needs are done. The others fail with a need that failed."""
        cells = list(cells)
        lacking = self.lacking(step, (need for cell in cells for need in cell.needs))
        for cell in cells:
            for need in lacking.keys() & cell.needs:
                self.fail(
                    [cell], Failed(f"needs '{cell_title(need)}', which failed: {lacking[need]}", waits=True)
                )
        return {cell for cell in cells if not lacking.keys() & cell.needs}

    def gather(
        self,
        build: Callable[..., Any],
        arguments: tuple[Any, ...],
        work: Callable[[Any, Any], Any],
        groups: list[tuple[T, list[Any]]],
        on_task: Callable[[Any], None] = lambda task: None,
        gpu: bool = True,
    ) -> Iterator[tuple[T, list[Any] | Failed]]:
        """(group, results of its tasks in their order) as soon as its last task is done; a Failed where one of them failed."""
        tasks = [(index, task) for index, (_, mine) in enumerate(groups) for task in mine]
        parts: dict[int, dict[int, Any]] = {}
        for position, found in self.cluster.map(build, arguments, work, [task for _, task in tasks], gpu):
            index, task = tasks[position]
            mine = parts.setdefault(index, {})
            mine[position] = found
            on_task(task)
            if len(mine) == len(groups[index][1]):
                results = [mine[place] for place in sorted(parts.pop(index))]
                yield (
                    groups[index][0],
                    next((result for result in results if isinstance(result, Failed)), results),
                )


def _step_of(cell: Cell) -> str:
    """The step that makes a cell from which others are made."""
    if cell.table == "training":
        return {"base": "base-network", "vib": "defense", "adversarial": "baselines"}[
            cell.partition["training"]
        ]
    return cell.table


def prepare(study: Study, store: Store, data: Path | None, progress: Progress) -> Run:
    """Check everything that can be checked before work starts, and plan the study.

    Raises HarnessError: data or weights that are missing, a results folder that can't be used.
    """
    store.open()
    datasets.prepare(study.dataset, data)
    pretrained = None
    if study.network.pretrained:
        from harness.vgg16 import pretrained_digest

        pretrained = pretrained_digest(study.network)
    planned = plan(study, datasets.fingerprint(study.dataset, data), pretrained)
    run = Run(study, store, data, planned, progress)
    _record(run)
    return run


ALL_STEPS = tuple(step.name for step in STEPS)


def run_steps(run: Run, names: tuple[str, ...] = ALL_STEPS) -> int:
    """Make the missing cells of the named steps, in the paper's order; how many were made. What failed is in ``run.failed``.

    Raises HarnessError for anything the user can mend; what is finished stays.
    """
    try:
        return sum(make(run, step.name) for step in STEPS if step.name in names) - len(run.failed)
    finally:
        run.close()


def make(run: Run, step: str) -> int:
    """Make the missing cells of one step; how many were tried."""
    steps: dict[str, Callable[[Run], int]] = {
        "bound": _bound, "base-network": _base, "attack": _attacks, "defense": _defense,
        "baselines": _baselines, "black-box": _black_box, "white-box": _white_box,
    }  # fmt: skip
    return steps[step](run)


def cells_of(run: Run, step: str) -> list[Cell]:
    """The cells of one step; none of the white box's while the strongest network is not known."""
    plan = run.plan
    cells: dict[str, Callable[[], Iterable[Cell]]] = {
        "bound": lambda: plan.bounds.values(), "base-network": lambda: [plan.base.cell],
        "attack": lambda: (cell for attack in plan.attacks for cell in attack.cells),
        "defense": lambda: (network.cell for network in plan.defenses),
        "baselines": lambda: (network.cell for network in plan.baselines),
        "black-box": lambda: (e.cell for e in plan.black_box), "white-box": lambda: (e.cell for e in white_box_cells(run)),
    }  # fmt: skip
    return list(cells[step]())


# --- III-A: the bound -----------------------------------------------------------------------------


def _bound(run: Run) -> int:
    todo = {cell.partition["split"]: cell for cell in run.todo(cells_of(run, "bound"))}
    shards = {split: bound.shards(getattr(run.dataset, split), run.dataset.train) for split in todo}
    run.progress.begin("bound", sum(map(len, shards.values())), "blocks", len(run.plan.bounds) - len(todo))
    if todo:
        gpu = _has_gpu(run.cluster)
        arguments = (run.shared_dataset, run.cluster.share(make_index(run.dataset.train, gpu=gpu)), gpu)
        groups = [(split, [(split, shard) for shard in mine]) for split, mine in shards.items()]
        for split, found in run.gather(
            Searcher, arguments, Searcher.search, groups, lambda _: run.progress.advance("bound"), gpu
        ):
            if isinstance(found, Failed):
                run.fail([todo[split]], found)
                continue
            parts = list(zip(shards[split], found, strict=True))
            run.store.write(
                todo[split], bound.rows(getattr(run.dataset, split), run.dataset.train, parts), **hardware()
            )
    run.progress.end("bound")
    return len(todo)


def _has_gpu(cluster: Cluster) -> bool:
    """Whether workers find a GPU: one of the cluster, or this process's own where it does the work."""
    if not cluster.local:
        return cluster.gpus > 0
    import torch

    return torch.cuda.is_available()


# --- IV: the base network; III-C and V-D: the networks fine-tuned from it ------------------------------


def _base(run: Run) -> int:
    return _train(run, "base-network", (run.plan.base,))


def _defense(run: Run) -> int:
    return _train(run, "defense", run.plan.defenses)


def _baselines(run: Run) -> int:
    return _train(run, "baselines", run.plan.baselines)


def _train(run: Run, step: str, wanted: tuple[Network, ...]) -> int:
    missing = run.todo(network.cell for network in wanted)
    for network in wanted:
        if network.cell not in missing:  # a run killed between writing the cell and this
            checkpoints.drop(run.store.folder, network.cell)
    feasible = run.feasible(step, missing)
    todo = [network for network in wanted if network.cell in feasible]
    epochs = sum(network.spec.epochs for network in todo)
    run.progress.begin(step, epochs, "epochs", len(wanted) - len(missing))
    if todo:
        from harness import sweep

        base = distance = teacher = None
        if step != "base-network":
            base = run.store.tensors(run.plan.base.cell)
        if step == "defense":
            distance, teacher = _distances(run), _teacher(run)
        material = sweep.Material(
            run.study.seed,
            run.study.network,
            len(run.dataset.classes),
            run.dataset.train,
            run.dataset.test,
            base,
            distance,
            teacher,
        )

        def on_row(network: Network, row: dict[str, Any]) -> None:
            run.progress.advance(step, 1, f"{network.title}: clean {100 * row['clean_accuracy']:.1f} %")

        for network, failure in sweep.fit(todo, material, run.store, run.cluster, on_row):
            run.fail([network.cell], failure)
    run.progress.end(step)
    return len(missing)


def _distances(run: Run) -> np.ndarray:
    """d_i of the training images, in their order (eq. 2), for the study's kind of neighbour."""
    import pyarrow.compute as pc

    rows = run.store.read(run.plan.bounds["train"])
    rows = rows.filter(pc.equal(rows["neighbours"], run.study.neighbours)).sort_by("image_id")
    assert np.array_equal(rows["image_id"].to_numpy(), run.dataset.train.ids), "the bound is of other images"
    distances: np.ndarray = rows["distance"].to_numpy().astype(np.float32)
    return distances


def _teacher(run: Run) -> np.ndarray:
    """log f1(x) of the clean training images, once for all trainings (eq. 6)."""
    from harness.evaluation import blocks

    arguments = (run.study, run.store, run.shared_dataset)
    tasks = [(run.plan.base, block) for block in blocks(len(run.dataset.train.ids), TEACHER_BLOCK)]
    ((_, found),) = run.gather(Tester, arguments, Tester.log_probabilities, [("f1", tasks)])
    if isinstance(found, Failed):
        raise HarnessError(f"f1's outputs on the training images could not be computed: {found.reason}")
    return np.concatenate(found)


# --- III-B: attacks on f1 ---------------------------------------------------------------------------


def _attacks(run: Run) -> int:
    missing = run.todo(cells_of(run, "attack"))
    feasible = run.feasible("attack", missing)
    todo = [
        _part(attack, cells)
        for attack in run.plan.attacks
        if (cells := tuple(c for c in attack.cells if c in feasible))
    ]
    total = sum(len(getattr(run.dataset, attack.split).ids) for attack in todo)
    run.progress.begin(
        "attack", total, "images", sum(len(attack.cells) for attack in run.plan.attacks) - len(missing)
    )
    if todo:
        from harness.evaluation import stack

        def on_task(task: tuple[Network, Attack, slice]) -> None:
            _, attack, block = task
            run.progress.advance(
                "attack", block.stop - block.start, f"{attack.name} on {attack.split} images"
            )

        groups = [
            (attack, [(run.plan.base, attack, block) for block in _blocks(run, attack.split)])
            for attack in todo
        ]
        arguments = (run.study, run.store, run.shared_dataset)
        for attack, found in run.gather(Tester, arguments, Tester.attack, groups, on_task):
            if isinstance(found, Failed):
                run.fail(attack.cells, found)
                continue
            for cell, pieces in zip(attack.cells, zip(*found, strict=True), strict=True):
                images = np.concatenate([images for _, images in pieces])
                run.store.write(
                    cell, stack([rows for rows, _ in pieces]), {"adversarial": images}, **hardware()
                )
    run.progress.end("attack")
    return len(missing)


def _part(attack: Attack, cells: tuple[Cell, ...]) -> Attack:
    """The part of an attack that is not done: a finished epsilon is not made again for the sake of another."""
    epsilons = tuple(cell.columns["epsilon"] for cell in cells)
    settings = (
        attack.settings if epsilons == (None,) else attack.settings.model_copy(update={"epsilon": epsilons})
    )
    return replace(attack, settings=settings, cells=cells)


def _blocks(run: Run, split: str) -> list[slice]:
    from harness.evaluation import BATCHES_PER_TASK, blocks

    return blocks(len(getattr(run.dataset, split).ids), BATCHES_PER_TASK * run.study.batch_size)


# --- V-C to V-E: every network on every set of images --------------------------------------------------


def _black_box(run: Run) -> int:
    missing = run.todo(cells_of(run, "black-box"))
    feasible = run.feasible("black-box", missing)
    todo = [e for e in run.plan.black_box if e.cell in feasible]
    run.progress.begin("black-box", len(todo), "cells", len(run.plan.black_box) - len(missing))
    if todo:
        tasks = [task for network in run.plan.networks if (task := [e for e in todo if e.network is network])]
        arguments = (run.study, run.store, run.shared_dataset)
        for task, found in run.gather(Tester, arguments, Tester.evaluate, [(task, [task]) for task in tasks]):
            predictions = [found] * len(task) if isinstance(found, Failed) else found[0]
            for evaluation, predicted in zip(task, predictions, strict=True):
                _finish(run, evaluation, predicted)
                run.progress.advance("black-box")
    run.progress.end("black-box")
    return len(missing)


def _white_box(run: Run) -> int:
    _record(run)
    wanted = white_box_cells(run)
    if not wanted:  # a network was not tried: say which
        run.lacking("white-box", (network.cell for network in (run.plan.base, *run.plan.defenses)))
    missing = run.todo(e.cell for e in wanted)
    feasible = run.feasible("white-box", missing)
    todo = [e for e in wanted if e.cell in feasible]
    run.progress.begin(
        "white-box",
        len(todo) * len(_blocks(run, "test")) if todo else 0,
        "blocks",
        len(wanted) - len(missing),
    )
    if todo:
        groups = [
            (evaluation, [(evaluation, block) for block in _blocks(run, "test")]) for evaluation in todo
        ]
        arguments = (run.study, run.store, run.shared_dataset)
        for evaluation, found in run.gather(
            Tester, arguments, Tester.white_box, groups, lambda _: run.progress.advance("white-box")
        ):
            _finish(run, evaluation, found if isinstance(found, Failed) else np.concatenate(found))
    run.progress.end("white-box")
    return len(missing)


def _finish(run: Run, evaluation: Evaluation, predictions: np.ndarray | Failed) -> None:
    """Write an evaluation's cell, or why there is none."""
    if isinstance(predictions, Failed):
        run.fail([evaluation.cell], predictions)
        return
    test = run.dataset.test
    run.store.write(
        evaluation.cell, {"image_id": test.ids, "label": test.labels, "prediction": predictions}, **hardware()
    )


def strongest(run: Run) -> tuple[bool, Network | None]:
    """Whether every defended network was tried; and then the one of highest clean test accuracy (V-E's choice).

    The first on ties; None where none could be trained.
    """
    missing = run.missing(network.cell for network in run.plan.defenses)
    if any(run.store.failure(cell) is None for cell in missing):
        return False, None
    trained = [network for network in run.plan.defenses if network.cell not in missing]
    accuracy = [run.store.read(network.cell)["clean_accuracy"].to_pylist()[-1] for network in trained]
    return True, trained[int(np.argmax(accuracy))] if trained else None


def white_box_cells(run: Run) -> tuple[Evaluation, ...]:
    """The white box's cells, none while the strongest network is not known; f1's alone where no defended one could be trained."""
    if run.chosen:
        return run.chosen
    settled, best = strongest(run)
    return white_box(run.plan, (run.plan.base, best) if best else (run.plan.base,)) if settled else ()


def _record(run: Run) -> None:
    """Tell the store which cells the study's tables are made from."""
    cells = [*run.plan.cells(), *(evaluation.cell for evaluation in white_box_cells(run))]
    run.store.record_study(run.study.name, run.study.model_dump(mode="json"), cells)
