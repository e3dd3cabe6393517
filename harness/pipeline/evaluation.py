"""V-C to V-E: every network on every set of images, and the white box."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.errors import Failed
from harness.evaluation.tester import PredictionTask, StoredNetwork, Tester
from harness.pipeline import attacks
from harness.pipeline.run import Run, StepWork
from harness.results.cells import Cell
from harness.study.costs import Price, Quote, table_bytes
from harness.study.evaluations import Evaluation


def _black_box_cells(run: Run) -> Iterable[Cell]:
    return run.plan.black_box_cells()


def _black_box(run: Run) -> int:
    missing = run.todo(_black_box_cells(run))
    feasible = run.feasible("black-box", missing)
    planned = (*run.plan.black_box, *run.plan.validation)
    todo = [evaluation for evaluation in planned if evaluation.cell in feasible]
    run.progress.begin("black-box", len(todo), "cells", len(planned) - len(missing))
    if todo:
        groups = [(mine, [_prediction(run, mine)]) for mine in _by_network(todo)]
        arguments = (run.store, run.shared_dataset)
        for mine, results in run.gather(Tester, arguments, Tester.predict, groups):
            predictions = [results] * len(mine) if isinstance(results, Failed) else results[0]
            for evaluation, predicted in zip(mine, predictions, strict=True):
                _finish(run, evaluation, predicted)
                run.progress.advance("black-box")
    run.progress.end("black-box")
    return len(missing)


def _by_network(evaluations: list[Evaluation]) -> list[list[Evaluation]]:
    """A network's evaluations are one task: its weights are read once."""
    groups: dict[Cell, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.network.cell, []).append(evaluation)
    return list(groups.values())


def _prediction(run: Run, evaluations: list[Evaluation]) -> PredictionTask:
    images = tuple(evaluation.images for evaluation in evaluations)
    network = evaluations[0].network
    splits = tuple(evaluation.cell.partition["split"] for evaluation in evaluations)
    stored = StoredNetwork(network.architecture, network.cell)
    return PredictionTask(stored, images, splits, run.study.batch_size)


def _finish(run: Run, evaluation: Evaluation, predicted: Mapping[str, np.ndarray] | Failed) -> None:
    """Write an evaluation's cell, or why there is none."""
    if isinstance(predicted, Failed):
        run.fail([evaluation.cell], predicted)
        return
    images = run.dataset.of(evaluation.cell.partition["split"])
    run.keep(evaluation.cell, {"image_id": images.ids, "label": images.labels, **predicted})


def _black_box_price(quote: Quote) -> Price:
    counts = [quote.count(cell.partition["split"]) for cell in quote.plan.black_box_cells()]
    networks = max(1, len(quote.plan.networks))
    tasks = [(quote.rates.forwards.seconds(sum(counts)) / networks, networks)]
    written = sum(table_bytes("evaluation", count) for count in counts)
    return quote.step("black-box", len(counts), tasks, written, quote.rates.start_up.workers_s)


# --- the white box ----------------------------------------------------------------------------------------


def _white_box_cells(run: Run) -> Iterable[Cell]:
    return run.plan.white_box_cells()


def _white_box(run: Run) -> int:
    plan = run.plan
    tried = _copy(run, plan.measured)
    tried += attacks.make(run, "white-box", plan.white_box, len(plan.measured) + len(plan.copied))
    return tried + _copy(run, plan.copied)


_MEASURED = ("image_id", "label", "l0", "mean_l1", "l1", "l2", "linf", "draws", "attack_s")


def _copy(run: Run, measured: Sequence[Evaluation]) -> int:
    """What the attacks on the base networks measured is their white box, and that of their twins."""
    images = {evaluation.cell: evaluation.images for evaluation in measured}
    missing = run.todo(images)
    feasible = run.feasible("white-box", missing)
    for cell in missing:
        source = images[cell]
        if cell in feasible and source is not None:
            made = _in_white_box(run, source)
            rows = {name: made[name] for name in _MEASURED}
            says = "adversarial_predicted" if source.table == "attack" else "prediction"
            run.keep(cell, {**rows, "prediction": made[says]})
    return len(missing)


def _in_white_box(run: Run, source: Cell) -> dict[str, list[Any]]:
    """The rows of a cell that are of images in the white box, by column."""
    table = run.store.read(source)
    if source.table == "attack" and run.study.dataset.white_box_limit is not None:
        table = table.filter(np.isin(table["image_id"].to_numpy(), run.dataset.of("white_box").ids))
    rows: dict[str, list[Any]] = table.to_pydict()
    return rows


def _white_box_price(quote: Quote) -> Price:
    price = attacks.attack_price("white-box", quote.plan.white_box, quote)
    copied = len(quote.plan.measured) + len(quote.plan.copied)
    return replace(
        price,
        cells=price.cells + copied,
        bytes=price.bytes + copied * table_bytes("attack", quote.size.test),
    )


WORK = {
    "black-box": StepWork(_black_box_cells, _black_box, _black_box_price),
    "white-box": StepWork(_white_box_cells, _white_box, _white_box_price),
}
