"""The expensive parts measured against what users would pick instead, on the same work, in one run.

A case is one piece of work; its contenders take turns (see ``timing``), and every turn is a row of table
``benchmark``. A case that is measured is not measured again on the same machine with the same
versions, unless asked for: an interrupted benchmark goes on.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness.benchmark import attacks, bound, grid, trainings
from harness.benchmark.setting import FULL, GPU, SMOKE, Setting, Sizes
from harness.benchmark.timing import OURS, Case, Contender, measure
from harness.cluster.connection import connect
from harness.errors import HarnessError, did_you_mean
from harness.networks.device import cuda_versions
from harness.results.cells import Cell, hardware
from harness.results.store import Store
from harness.study.compute import ComputeSpec


def _on_gpu(setting: Setting) -> Iterator[Case]:
    """With a GPU the other parts measure it; without one these rows say that nothing was measured."""
    if setting.device.type == "cuda":
        return
    works = (
        ("bound of MNIST and CIFAR-10", "pairs"),
        ("attacks on 10,000 images", "images"),
        ("VGG16, defense epoch, and its share of peak", "samples"),
    )
    for name, unit in works:
        nobody = Contender(OURS, None, 1, "no GPU on this machine")
        yield Case("gpu", name, unit, 1, setting.threads, "GPU", (nobody,))


PARTS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "bound": bound.cases,
    "growth": bound.growth,
    "attacks": attacks.cases,
    "trainings": trainings.cases,
    "grid": grid.grid,
    "ddp": grid.ddp,
    "gpu": _on_gpu,
}
__all__ = ["FULL", "GPU", "PARTS", "SMOKE", "Setting", "Sizes", "run"]


def run(
    store: Store,
    setting: Setting,
    parts: tuple[str, ...],
    repeats: int,
    again: bool,
    on_turn: Callable[[str, str], None],
) -> int:
    """Measure the cases of ``parts`` (all where empty) and write them; how many were measured.

    ``on_turn(case, contender)`` is told what is being measured. Raises HarnessError for an unknown part,
    and where no data set of the benchmark lies in the data folder.
    """
    _check(setting, parts)
    store.open()
    measured = 0
    # One Ray for all cases: starting it is not what is measured.
    with connect(ComputeSpec(workers=setting.threads)):
        for part in parts or tuple(PARTS):
            for case in PARTS[part](setting):
                cell = _cell(case, repeats)
                if again or not store.is_done(cell):
                    rows = measure(case, repeats, partial(on_turn, case.name))
                    store.write(cell, rows, **_machine())
                    measured += 1
    return measured


def _check(setting: Setting, parts: tuple[str, ...]) -> None:
    for part in parts:
        if part not in PARTS:
            raise HarnessError(f"no part '{part}' of the benchmark{did_you_mean(part, PARTS)}")
    if not setting.subjects:
        raise HarnessError(
            "the benchmark needs MNIST/raw or CIFAR-10 in the data folder, "
            f"and '{setting.data}' has neither (see --data)"
        )


def _machine() -> dict[str, Any]:
    return {**hardware(), **cuda_versions()}


def _cell(case: Case, repeats: int) -> Cell:
    """Where a case's rows belong: the machine and its versions are part of what was measured."""
    columns: dict[str, Any] = {
        "case": case.name,
        "unit": case.unit,
        "amount": case.amount,
        "threads": case.threads,
        "device": case.device,
    }
    columns |= {name: case.shape.get(name) for name in ("images", "values", "classes")}
    contenders = [(contender.name, contender.measured, contender.note) for contender in case.contenders]
    settings = {"contenders": contenders, "repeats": repeats, "on": _machine()}
    return Cell("benchmark", {"part": case.part}, columns, settings)
