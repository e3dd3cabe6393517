"""Certified radii of the smoothed networks (Cohen et al. 2019), and the sandwich around them."""

from collections.abc import Iterable

from harness.data.source import evenly
from harness.errors import Failed
from harness.evaluation.blocks import blocks
from harness.evaluation.sandwich import FORWARDS as SANDWICH_FORWARDS
from harness.evaluation.tester import CertificationTask, StoredNetwork, Tester
from harness.pipeline.run import Run, StepWork, by_column
from harness.results.cells import Cell
from harness.seeds import derive
from harness.study.certification import PlannedCertificate
from harness.study.certify_settings import CertifySpec
from harness.study.costs import Price, Quote, table_bytes

_IMAGES_PER_BLOCK = 25  # each takes n0 + n forward passes


def _cells(run: Run) -> Iterable[Cell]:
    return [planned.cell for planned in run.plan.certified]


def _make(run: Run) -> int:
    planned = run.plan.certified
    if not planned:  # a study that asks for no certificates hears nothing of them
        return 0
    missing = run.todo(_cells(run))
    feasible = run.feasible("certify", missing)
    groups = [(each, _tasks(run, each)) for each in planned if each.cell in feasible]
    total = sum(len(task.positions) for _, tasks in groups for task in tasks)
    run.progress.begin("certify", total, "images", len(planned) - len(missing))
    if groups:
        _gather(run, groups)
    run.progress.end("certify")
    return len(missing)


def _gather(run: Run, groups: list[tuple[PlannedCertificate, list[CertificationTask]]]) -> None:
    def on_task(task: CertificationTask) -> None:
        run.progress.advance("certify", len(task.positions), task.network.cell.title)

    arguments = (run.store, run.shared_dataset)
    for planned, results in run.gather(Tester, arguments, Tester.certify, groups, on_task):
        if isinstance(results, Failed):
            run.fail([planned.cell], results)
            continue
        rows = [row for block in results for row in block]
        run.keep(planned.cell, by_column(rows))


def _tasks(run: Run, planned: PlannedCertificate) -> list[CertificationTask]:
    spec, network = run.study.certify, planned.network
    assert spec is not None
    positions = evenly(len(run.dataset.test.ids), spec.images).tolist()
    attacked = {positions[index] for index in evenly(len(positions), spec.sandwich)}
    return [
        CertificationTask(
            StoredNetwork(network.architecture, network.cell),
            tuple(positions[block]),
            tuple(position in attacked for position in positions[block]),
            spec.smoothing,
            derive(network.seed, "certify"),
            run.study.batch_size,
        )
        for block in blocks(len(positions), _IMAGES_PER_BLOCK)
    ]


def _price(quote: Quote) -> Price:
    planned, spec = quote.plan.certified, quote.plan.study.certify or CertifySpec()
    images = len(evenly(quote.size.test, spec.images))
    attacked = min(images, spec.sandwich)
    forwards = images * (spec.selection_draws + spec.certification_draws) + attacked * SANDWICH_FORWARDS
    blocks_of_images = len(planned) * -(-images // _IMAGES_PER_BLOCK)
    seconds = len(planned) * quote.rates.forwards.seconds(forwards)
    tasks = [(seconds / max(1, blocks_of_images), blocks_of_images)]
    return quote.step("certify", len(planned), tasks, len(planned) * table_bytes("certified", images))


WORK = {"certify": StepWork(_cells, _make, _price)}
