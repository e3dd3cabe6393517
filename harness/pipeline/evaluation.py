"""V-C to V-E: every network on every set of images, and the white box."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from harness.errors import Failed
from harness.evaluation.tester import PredictionTask, StoredNetwork, Tester
from harness.pipeline import attacks
from harness.pipeline.run import Run, StepWork
from harness.results.cells import Cell
from harness.study.costs import Price, Quote, table_bytes
from harness.study.evaluations import Evaluation


def _black_box_cells(run: Run) -> Iterable[Cell]:
    return [evaluation.cell for evaluation in run.plan.black_box]


def _black_box(run: Run) -> int:
    missing = run.todo(_black_box_cells(run))
    feasible = run.feasible("black-box", missing)
    todo = [evaluation for evaluation in run.plan.black_box if evaluation.cell in feasible]
    run.progress.begin("black-box", len(todo), "cells", len(run.plan.black_box) - len(missing))
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
    return PredictionTask(StoredNetwork(network.architecture, network.cell), images, run.study.batch_size)


def _finish(run: Run, evaluation: Evaluation, predictions: np.ndarray | Failed) -> None:
    """Write an evaluation's cell, or why there is none."""
    if isinstance(predictions, Failed):
        run.fail([evaluation.cell], predictions)
        return
    test = run.dataset.test
    run.keep(evaluation.cell, {"image_id": test.ids, "label": test.labels, "prediction": predictions})


def _black_box_price(quote: Quote) -> Price:
    cells = len(quote.plan.black_box)
    seconds = cells * quote.size.test / quote.rates.forwards
    written = cells * table_bytes("evaluation", quote.size.test)
    return Price("black-box", cells, seconds, len(quote.plan.networks), written)


# --- the white box ----------------------------------------------------------------------------------------


def _white_box_cells(run: Run) -> Iterable[Cell]:
    return run.plan.white_box_cells()


def _white_box(run: Run) -> int:
    copied = _copy_measured(run)
    return copied + attacks.make(run, "white-box", run.plan.white_box, len(run.plan.measured))


_MEASURED = ("image_id", "label", "l0", "mean_l1", "l1", "l2", "linf", "draws", "attack_s")


def _copy_measured(run: Run) -> int:
    """What the attacks on the base networks measured there is their white box."""
    images = {evaluation.cell: evaluation.images for evaluation in run.plan.measured}
    missing = run.todo(images)
    feasible = run.feasible("white-box", missing)
    for cell in missing:
        source = images[cell]
        if cell in feasible and source is not None:
            made = run.store.read(source).to_pydict()
            rows = {name: made[name] for name in _MEASURED}
            run.keep(cell, {**rows, "prediction": made["adversarial_predicted"]})
    return len(missing)


def _white_box_price(quote: Quote) -> Price:
    price = attacks.attack_price("white-box", quote.plan.white_box, quote)
    copied = len(quote.plan.measured)
    return replace(
        price,
        cells=price.cells + copied,
        bytes=price.bytes + copied * table_bytes("attack", quote.size.test),
    )


WORK = {
    "black-box": StepWork(_black_box_cells, _black_box, _black_box_price),
    "white-box": StepWork(_white_box_cells, _white_box, _white_box_price),
}
