"""V-C to V-E: every network on every set of images, and the white box."""

from collections.abc import Iterable

import numpy as np

from harness.errors import Failed
from harness.evaluation.blocks import BATCHES_PER_BLOCK
from harness.evaluation.tester import AttackTask, PredictionTask, Tester
from harness.pipeline.attacks import image_blocks
from harness.pipeline.run import Run, StepWork, keep_record, white_box_cells
from harness.results.cells import Cell, hardware
from harness.seeds import derive
from harness.study.costs import Price, Quote, table_bytes
from harness.study.plan import Evaluation


def _black_box_cells(run: Run) -> Iterable[Cell]:
    return [evaluation.cell for evaluation in run.plan.black_box]


def _black_box(run: Run) -> int:
    missing = run.todo(_black_box_cells(run))
    feasible = run.feasible("black-box", missing)
    todo = [evaluation for evaluation in run.plan.black_box if evaluation.cell in feasible]
    run.progress.begin("black-box", len(todo), "cells", len(run.plan.black_box) - len(missing))
    if todo:
        groups = [(mine, [_prediction(run, mine)]) for mine in _by_network(todo)]
        arguments = (run.study.network, run.store, run.shared_dataset)
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
    return PredictionTask(evaluations[0].network.cell, images, run.study.batch_size)


def _white_box_cells(run: Run) -> Iterable[Cell]:
    """None while the strongest networks are not known."""
    return [evaluation.cell for evaluation in white_box_cells(run)]


def _white_box(run: Run) -> int:
    keep_record(run)
    wanted = white_box_cells(run)
    if not wanted:  # a network was not tried: say which
        run.lacking(
            "white-box", (network.cell for network in (*run.plan.bases, *run.plan.trained_by("defense")))
        )
    missing = run.todo(evaluation.cell for evaluation in wanted)
    feasible = run.feasible("white-box", missing)
    todo = [evaluation for evaluation in wanted if evaluation.cell in feasible]
    groups = [(evaluation, _attacks(run, evaluation)) for evaluation in todo]
    total = sum(len(tasks) for _, tasks in groups)
    run.progress.begin("white-box", total, "blocks", len(wanted) - len(missing))
    if todo:

        def on_task(_: AttackTask) -> None:
            run.progress.advance("white-box")

        arguments = (run.study.network, run.store, run.shared_dataset)
        for evaluation, results in run.gather(Tester, arguments, Tester.white_box, groups, on_task):
            _finish(run, evaluation, results if isinstance(results, Failed) else np.concatenate(results))
    run.progress.end("white-box")
    return len(missing)


def _attacks(run: Run, evaluation: Evaluation) -> list[AttackTask]:
    """The blocks of a white-box attack on a network."""
    assert evaluation.settings is not None, "only the white box attacks here"
    network, study = evaluation.network, run.study
    seed = derive(network.seed, "white_box")
    return [
        AttackTask(
            "pgd", network.cell, evaluation.settings, "test", block, study.protocol, seed, study.batch_size
        )
        for block in image_blocks(run, "test")
    ]


def _finish(run: Run, evaluation: Evaluation, predictions: np.ndarray | Failed) -> None:
    """Write an evaluation's cell, or why there is none."""
    if isinstance(predictions, Failed):
        run.fail([evaluation.cell], predictions)
        return
    test = run.dataset.test
    rows = {"image_id": test.ids, "label": test.labels, "prediction": predictions}
    run.store.write(evaluation.cell, rows, **hardware())


def _black_box_price(quote: Quote) -> Price:
    cells = len(quote.plan.black_box)
    seconds = cells * quote.size.test / quote.rates.forwards
    written = cells * table_bytes("evaluation", quote.size.test)
    return Price("black-box", cells, seconds, len(quote.plan.networks), written)


def _white_box_price(quote: Quote) -> Price:
    """Of the base network and the strongest defended one, for every seed."""
    white, test = quote.plan.study.white_box, quote.size.test
    networks = 2 if quote.plan.trained_by("defense") else 1
    cells = networks * len(quote.plan.bases) * len(white.epsilon) * len(white.step_divisors)
    seconds = cells * test * white.steps * white.restarts / quote.rates.gradients
    blocks = -(-test // (BATCHES_PER_BLOCK * quote.plan.study.batch_size))
    return Price("white-box", cells, seconds, cells * blocks, cells * table_bytes("evaluation", test))


WORK = {
    "black-box": StepWork(_black_box_cells, _black_box, _black_box_price),
    "white-box": StepWork(_white_box_cells, _white_box, _white_box_price),
}
