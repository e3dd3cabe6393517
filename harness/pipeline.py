"""A study from images to tables, step by step, reading as the paper does.

Each step makes the cells that are missing and leaves the others alone; a cell is written as soon as
it is complete. So any command may be killed at any moment and run again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness import STEPS, bound, datasets
from harness.cluster import Cluster, check_nodes, connect
from harness.errors import HarnessError
from harness.partition import index as make_index
from harness.plan import Attack, Evaluation, Network, Plan, plan, white_box
from harness.spec import Study
from harness.store import Cell, Store, hardware
from harness.workers import TEACHER_BLOCK, Searcher, Tester


class Progress(Protocol):
    """Who is told how far a step is."""

    def begin(self, step: str, total: int, unit: str, done: int) -> None: ...
    def advance(self, step: str, amount: int = 1, note: str = "") -> None: ...
    def end(self, step: str) -> None: ...


@dataclass
class Run:
    """A study being run: what its steps share. The data set and the cluster are there once something is missing."""

    study: Study
    store: Store
    data: Path | None
    plan: Plan
    progress: Progress
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

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """The cells that are not done."""
        return [cell for cell in cells if not self.store.is_done(cell)]

    def require(self, step: str, cells: list[Cell], of: str) -> None:
        """Raise HarnessError unless the cells that a step starts from are done."""
        lacking = self.missing(cells)
        if lacking:
            raise HarnessError(
                f"'{step}' starts from what '{of}' makes, and {len(lacking)} of its {len(cells)} cells are missing: "
                f"run `harness {of} {self.study.name}` first, or all steps with `harness run {self.study.name}`"
            )


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
    """Make the missing cells of the named steps, in the paper's order; how many were made.

    Raises HarnessError for anything the user can mend; what is finished stays.
    """
    steps: dict[str, Callable[[Run], int]] = {
        "bound": _bound, "base-network": _base, "attack": _attacks, "defense": _defense,
        "baselines": _baselines, "black-box": _black_box, "white-box": _white_box,
    }  # fmt: skip
    try:
        return sum(steps[step.name](run) for step in STEPS if step.name in names)
    finally:
        run.close()


def unfinished(run: Run, names: tuple[str, ...] = ALL_STEPS) -> bool:
    """Whether anything of the named steps is left to do."""
    cells = {
        "bound": list(run.plan.bounds.values()), "base-network": [run.plan.base.cell],
        "attack": [cell for attack in run.plan.attacks for cell in attack.cells],
        "defense": [network.cell for network in run.plan.defenses], "baselines": [network.cell for network in run.plan.baselines],
        "black-box": [e.cell for e in run.plan.black_box], "white-box": [e.cell for e in _white_box_cells(run)],
    }  # fmt: skip
    return any(run.missing(cells[name]) for name in names)


# --- III-A: the bound -----------------------------------------------------------------------------


def _bound(run: Run) -> int:
    todo = {split: cell for split, cell in run.plan.bounds.items() if not run.store.is_done(cell)}
    tasks = [(split, shard) for split in todo for shard in bound.shards(getattr(run.dataset, split), run.dataset.train)]
    run.progress.begin("bound", len(tasks), "blocks", len(run.plan.bounds) - len(todo))
    if todo:
        gpu = _has_gpu(run.cluster)
        arguments = (run.shared_dataset, run.cluster.share(make_index(run.dataset.train, gpu=gpu)), gpu)
        parts: dict[str, list[Any]] = {split: [] for split in todo}
        for position, found in run.cluster.map(Searcher, arguments, Searcher.search, tasks, gpu=gpu):
            split, shard = tasks[position]
            parts[split].append((shard, found))
            run.progress.advance("bound")
            if len(parts[split]) == sum(other == split for other, _ in tasks):
                run.store.write(todo[split], bound.rows(getattr(run.dataset, split), run.dataset.train, parts[split]), **hardware())
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
    if run.missing([network.cell for network in run.plan.defenses]):
        run.require("defense", [run.plan.base.cell], "base-network")
        run.require("defense", [run.plan.bounds["train"]], "bound")
    return _train(run, "defense", run.plan.defenses)


def _baselines(run: Run) -> int:
    todo = [network for network in run.plan.baselines if not run.store.is_done(network.cell)]
    if todo:
        run.require("baselines", [run.plan.base.cell], "base-network")
        run.require("baselines", [network.adversarial for network in todo if network.adversarial], "attack")
    return _train(run, "baselines", run.plan.baselines)


def _train(run: Run, step: str, wanted: tuple[Network, ...]) -> int:
    todo = [network for network in wanted if not run.store.is_done(network.cell)]
    for network in wanted:
        if network not in todo:  # a run killed between writing the cell and this
            run.store.checkpoint_path(network.cell).unlink(missing_ok=True)
    epochs = sum(network.spec.epochs for network in todo)
    run.progress.begin(step, epochs, "epochs", len(wanted) - len(todo))
    if todo:
        from harness import sweep

        base = distance = teacher = None
        if step != "base-network":
            base = run.store.tensors(run.plan.base.cell)
        if step == "defense":
            distance, teacher = _distances(run), _teacher(run)
        material = sweep.Material(
            run.study.seed, run.study.network, len(run.dataset.classes), run.dataset.train, run.dataset.test, base, distance, teacher
        )

        def on_row(network: Network, row: dict[str, Any]) -> None:
            run.progress.advance(step, 1, f"{network.title}: clean {100 * row['clean_accuracy']:.1f} %")

        sweep.fit(todo, material, run.store, run.cluster, on_row)
    run.progress.end(step)
    return len(todo)


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
    parts: list[Any] = [None] * len(tasks)
    for position, found in run.cluster.map(Tester, arguments, Tester.log_probabilities, tasks):
        parts[position] = found
    return np.concatenate(parts)


# --- III-B: attacks on f1 ---------------------------------------------------------------------------


def _attacks(run: Run) -> int:
    todo = [_lacking(run, attack) for attack in run.plan.attacks if run.missing(list(attack.cells))]
    made = sum(len(run.missing(list(attack.cells))) for attack in todo)
    total = sum(len(getattr(run.dataset, attack.split).ids) for attack in todo) if todo else 0
    cells = sum(len(attack.cells) for attack in run.plan.attacks)
    run.progress.begin("attack", total, "images", cells - made)
    if todo:
        run.require("attack", [run.plan.base.cell], "base-network")
        from harness.evaluation import stack

        tasks = [(run.plan.base, attack, block) for attack in todo for block in _blocks(run, attack.split)]
        parts: dict[int, dict[int, Any]] = {}
        arguments = (run.study, run.store, run.shared_dataset)
        for position, found in run.cluster.map(Tester, arguments, Tester.attack, tasks):
            attack, block = tasks[position][1:]
            mine = parts.setdefault(todo.index(attack), {})
            mine[block.start] = found
            run.progress.advance("attack", block.stop - block.start, f"{attack.name} on {attack.split} images")
            if len(mine) == len(_blocks(run, attack.split)):
                del parts[todo.index(attack)]
                for index, cell in enumerate(attack.cells):
                    pieces = [mine[start][index] for start in sorted(mine)]
                    images = np.concatenate([images for _, images in pieces])
                    run.store.write(cell, stack([rows for rows, _ in pieces]), {"adversarial": images}, **hardware())
    run.progress.end("attack")
    return made


def _lacking(run: Run, attack: Attack) -> Attack:
    """The part of an attack that is not done: a finished epsilon is not made again for the sake of another."""
    cells = tuple(run.missing(list(attack.cells)))
    epsilons = tuple(cell.columns["epsilon"] for cell in cells)
    settings = attack.settings if epsilons == (None,) else attack.settings.model_copy(update={"epsilon": epsilons})
    return replace(attack, settings=settings, cells=cells)


def _blocks(run: Run, split: str) -> list[slice]:
    from harness.evaluation import BATCHES_PER_TASK, blocks

    return blocks(len(getattr(run.dataset, split).ids), BATCHES_PER_TASK * run.study.batch_size)


# --- V-C to V-E: every network on every set of images --------------------------------------------------


def _black_box(run: Run) -> int:
    todo = [e for e in run.plan.black_box if not run.store.is_done(e.cell)]
    run.progress.begin("black-box", len(todo), "cells", len(run.plan.black_box) - len(todo))
    if todo:
        run.require("black-box", [run.plan.base.cell], "base-network")
        run.require("black-box", [e.images for e in todo if e.images], "attack")
        run.require("black-box", [network.cell for network in run.plan.defenses], "defense")
        run.require("black-box", [network.cell for network in run.plan.baselines], "baselines")
        tasks = [[e for e in todo if e.network is network] for network in run.plan.networks]
        tasks = [task for task in tasks if task]
        arguments = (run.study, run.store, run.shared_dataset)
        for position, found in run.cluster.map(Tester, arguments, Tester.evaluate, tasks):
            for evaluation, predictions in zip(tasks[position], found, strict=True):
                _write_evaluation(run, evaluation, predictions)
                run.progress.advance("black-box")
    run.progress.end("black-box")
    return len(todo)


def _white_box(run: Run) -> int:
    if run.missing([network.cell for network in (run.plan.base, *run.plan.defenses)]):
        run.require("white-box", [run.plan.base.cell], "base-network")
        run.require("white-box", [network.cell for network in run.plan.defenses], "defense")
    _record(run)
    wanted = _white_box_cells(run)
    todo = [e for e in wanted if not run.store.is_done(e.cell)]
    run.progress.begin("white-box", len(todo) * len(_blocks(run, "test")) if todo else 0, "blocks", len(wanted) - len(todo))
    if todo:
        tasks = [(evaluation, block) for evaluation in todo for block in _blocks(run, "test")]
        parts: dict[str, dict[int, Any]] = {}
        arguments = (run.study, run.store, run.shared_dataset)
        for position, found in run.cluster.map(Tester, arguments, Tester.white_box, tasks):
            evaluation, block = tasks[position]
            mine = parts.setdefault(evaluation.cell.key, {})
            mine[block.start] = found
            run.progress.advance("white-box")
            if len(mine) == len(_blocks(run, "test")):
                _write_evaluation(run, evaluation, np.concatenate([mine[start] for start in sorted(mine)]))
    run.progress.end("white-box")
    return len(todo)


def _write_evaluation(run: Run, evaluation: Evaluation, predictions: np.ndarray) -> None:
    test = run.dataset.test
    run.store.write(evaluation.cell, {"image_id": test.ids, "label": test.labels, "prediction": predictions}, **hardware())


def strongest(run: Run) -> Network | None:
    """The defended network of highest clean test accuracy (V-E's choice), the first on ties; None while one is missing."""
    if run.missing([network.cell for network in run.plan.defenses]):
        return None
    accuracy = [run.store.read(network.cell)["clean_accuracy"].to_pylist()[-1] for network in run.plan.defenses]
    return run.plan.defenses[int(np.argmax(accuracy))]


def _white_box_cells(run: Run) -> tuple[Evaluation, ...]:
    """The white box's cells, none while the strongest network is not known."""
    best = strongest(run)
    return white_box(run.plan, (run.plan.base, best)) if best else ()


def _record(run: Run) -> None:
    """Tell the store which cells the study's tables are made from."""
    cells = [*run.plan.cells(), *(evaluation.cell for evaluation in _white_box_cells(run))]
    run.store.record_study(run.study.name, run.study.model_dump(mode="json"), cells)
