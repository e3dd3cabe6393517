"""Whether the numbers may be believed: the checks of every network, and of the images made against it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from harness.checks.robustness import Case, Verdict, check_network
from harness.checks.robustness.validity import Made, validity
from harness.data.datasets import Dataset
from harness.errors import Failed, attempt
from harness.evaluation.tester import StoredNetwork, Tester
from harness.networks.classifier import as_input, to_tensor
from harness.networks.device import device
from harness.networks.randomised import Expected
from harness.pipeline.run import Run, StepWork, by_column
from harness.results.cells import Cell
from harness.results.store import Store
from harness.seeds import derive
from harness.study.checks import PlannedCheck
from harness.study.costs import Price, Quote, table_bytes

_GRADIENTS = 250  # that an image takes, where about half survive the white box


@dataclass(frozen=True)
class CheckTask:
    """All checks of one network; ``base``: whose images are tried for transfer, None for none."""

    network: StoredNetwork
    base: StoredNetwork | None
    epsilon: float
    images: int
    seed: int
    batch_size: int


class Checker(Tester):
    """A worker that judges networks."""

    def __init__(self, store: Store, dataset: Dataset) -> None:
        super().__init__(store, dataset)
        self._made: dict[tuple[Cell, float], Tensor | Failed] = {}  # by base network and radius

    def check(self, task: CheckTask) -> list[Verdict]:
        """The verdicts on a network, of test images that are taken evenly."""
        transfer = None if task.base is None else self._transfer(task, task.base)
        with self._using(task.network) as network:
            return check_network(self._case(task, network, transfer))

    def _transfer(self, task: CheckTask, base: StoredNetwork) -> Tensor | None:
        """The white box's images of the base network, made once; None where they can't be."""
        key = base.cell, task.epsilon
        if key not in self._made:
            self._made[key] = attempt(self._images_of, task, base)
        made = self._made[key]
        return None if isinstance(made, Failed) else made

    def _images_of(self, task: CheckTask, base: StoredNetwork) -> Tensor:
        with self._using(base) as network:
            case = self._case(task, network)
            return case.adversarial(torch.arange(len(case.ids), device=case.ids.device), case.pgd())

    def _case(self, task: CheckTask, network: nn.Module, transfer: Tensor | None = None) -> Case:
        """Of the network as it is: one that draws, without the mean over its draws."""
        test, on = self._dataset.test.evenly(task.images), device()
        images, labels, ids = (to_tensor(each, on) for each in (test.pixels, test.labels, test.ids))
        as_it_is = network.network if isinstance(network, Expected) else network
        return Case(
            as_it_is, as_input(images), labels, ids, task.epsilon, task.seed, task.batch_size, transfer
        )


# --- the step ---------------------------------------------------------------------------------------------


def _cells(run: Run) -> Iterable[Cell]:
    return [check.cell for check in run.plan.checks]


def _make(run: Run) -> int:
    missing = run.todo(_cells(run))
    feasible = run.feasible("check", missing)
    todo = [check for check in run.plan.checks if check.cell in feasible]
    run.progress.begin("check", len(todo), "cells", len(run.plan.checks) - len(missing))
    for check in [check for check in todo if check.kind == "images"]:
        _finish(run, check, attempt(_validity, run, check))
    networks = [check for check in todo if check.kind == "network"]
    if networks:
        groups = [(check, [_task(run, check)]) for check in networks]
        arguments = (run.store, run.shared_dataset)
        for check, results in run.gather(Checker, arguments, Checker.check, groups):
            _finish(run, check, results if isinstance(results, Failed) else results[0])
    run.progress.end("check")
    return len(missing)


def _task(run: Run, check: PlannedCheck) -> CheckTask:
    network, base = check.network, check.base
    return CheckTask(
        StoredNetwork(network.architecture, network.cell),
        None if base is None else StoredNetwork(base.architecture, base.cell),
        check.epsilon,
        run.study.checks.images,
        derive(network.seed, "checks"),
        run.study.batch_size,
    )


def _validity(run: Run, check: PlannedCheck) -> list[Verdict]:
    return [validity([_made(run, cell) for cell in check.images])]


def _made(run: Run, cell: Cell) -> Made:
    table = run.store.read(cell)
    rows = {name: table[name].to_numpy() for name in ("image_id", "label", "l0", "l1", "l2", "linf")}
    is_kept = run.store.metadata(cell.path)["artifact"] is not None
    images = run.store.tensors(cell)["adversarial"] if is_kept else None
    # On the base network the study's attacks are made on all test images.
    clean = run.dataset.of("test" if cell.table == "attack" else "white_box")
    return Made(clean, rows, cell.columns["norm"], cell.columns["epsilon"], images)


def _finish(run: Run, check: PlannedCheck, verdicts: list[Verdict] | Failed) -> None:
    """Write a cell, or why there is none."""
    run.progress.advance("check", 1, check.cell.title)
    if isinstance(verdicts, Failed):
        run.fail([check.cell], verdicts)
        return
    run.keep(check.cell, by_column([asdict(verdict) for verdict in verdicts]))


def _price(quote: Quote) -> Price:
    checks = quote.plan.checks
    judged = [check for check in checks if check.kind == "network"]
    images = min(quote.plan.study.checks.images, quote.size.test)
    seconds = quote.rates.gradients["float32"].seconds(images * _GRADIENTS)
    return quote.step("check", len(checks), [(seconds, len(judged))], len(checks) * table_bytes("check", 7))


WORK = {"check": StepWork(_cells, _make, _price)}
