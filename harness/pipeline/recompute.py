"""A seeded sample of finished cells made again, and compared value by value.

A cell is made again from the very files that it was made from, in a folder of its own.
"""

import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.pipeline.run import Run, Silent, check, work_of
from harness.pipeline.steps import STEPS
from harness.results import locking
from harness.results.cells import Cell
from harness.results.records import SCHEMAS
from harness.results.store import Store
from harness.results.values import differing
from harness.seeds import generator
from harness.study import reading
from harness.study.spec import Study


@dataclass(frozen=True)
class Finding:
    """What making a cell again showed: empty ``differences`` are equality in every value and every weight."""

    study: str
    title: str
    differences: tuple[str, ...]


def recompute(
    store: Store, count: int, seed: int, data: Path | None, workers: int | None, study: str | None = None
) -> Iterator[Finding]:
    """Make ``count`` finished cells again, drawn by ``seed`` from one study's or all, and compare them.

    ``workers`` as in ``with_workers``. Raises HarnessError for data that are missing or others than the
    study's.
    """
    studies = {name: record for name, record in store.studies().items() if study in (None, name)}
    for name, steps in _drawn(store, studies, count, seed).items():
        settings = reading.build(studies[name]["study"])
        yield from _study(store, with_workers(settings, workers, store), steps, data)


def with_workers(study: Study, workers: int | None, store: Store) -> Study:
    """The study on so many workers; by None on its own, and for an object store in this process alone.

    What is made again lies in a folder that the machines of a cluster must share.
    """
    if workers is None and store.local_root is None:
        workers = 0
    if workers is None:
        return study
    compute = study.compute.model_copy(update={"workers": workers})
    return study.model_copy(update={"compute": compute})


def _drawn(
    store: Store, studies: Mapping[str, Mapping[str, Any]], count: int, seed: int
) -> dict[str, dict[str, str]]:
    """The paths of the cells that are drawn and the steps that make them, study by study."""
    present = {path.as_posix() for path in store.files()}
    done = []
    for name, record in studies.items():
        done += [(name, cell["path"], cell["step"]) for cell in record["cells"] if cell["path"] in present]
    if not done:
        return {}
    positions = generator(seed, "recompute").choice(len(done), size=min(count, len(done)), replace=False)
    drawn: dict[str, dict[str, str]] = {}
    for name, path, step in (done[position] for position in sorted(positions)):
        drawn.setdefault(name, {})[path] = step
    return {name: drawn[name] for name in studies if name in drawn}


def _study(store: Store, settings: Study, drawn: dict[str, str], data: Path | None) -> Iterator[Finding]:
    """Make the drawn cells of a study again, step by step: path -> step."""
    steps = tuple(set(drawn.values()))
    run = check(settings, store, data, Silent(), steps)
    wanted = {step: _among(work_of(step).cells(run), drawn) for step in STEPS if step.name in steps}
    code = store.studies()[settings.name]["about"].get("code", {})
    if moved := [package for package, digest in run.plan.code.items() if code.get(package) != digest]:
        names = " and ".join(f"'{package}'" for package in moved)
        raise HarnessError(
            f"{names} is no longer the code that the cells of study '{settings.name}' were made with: "
            f"`harness run` makes them anew, `harness rekey` keeps them if nothing changes"
        )
    if sum(map(len, wanted.values())) < len(drawn):
        raise HarnessError(
            f"the data in '{data}' are not those of study '{settings.name}': "
            "its cells cannot be made again from them"
        )
    with run:
        yield from made_again(run, store, [cell for cells in wanted.values() for cell in cells], {})


def _among(cells: Iterable[Cell], paths: Container[str]) -> list[Cell]:
    return [cell for cell in cells if cell.path.as_posix() in paths]


def made_again(
    run: Run, store: Store, wanted: Container[Cell], originals: Mapping[Cell, Cell]
) -> Iterator[Finding]:
    """The wanted cells of a study made again, step by step, each compared with its original in ``store``.

    ``originals``: cell -> the one that holds its values there, where that has another key.
    """
    for step in STEPS:
        mine = [cell for cell in work_of(step).cells(run) if cell in wanted]
        for layer in _layers(mine):
            with _scratch(store) as scratch:
                for need in {need for cell in layer for need in cell.needs}:
                    copy(store, originals.get(need, need), scratch, need)
                run.store, run.only, run.failed = scratch, frozenset(layer), {}
                work_of(step).make(run)
                for cell in layer:
                    failure = run.failed.get(cell.title)
                    original = originals.get(cell, cell)
                    reasons = (failure.reason,) if failure else differences(original, store, cell, scratch)
                    yield Finding(run.study.name, cell.title, reasons)


def _layers(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells in groups of which none needs another of its group, first those that the others need."""
    left = list(cells)
    while left:
        waiting = set(left)
        layer = [cell for cell in left if not waiting.intersection(cell.needs)]
        yield layer
        left = [cell for cell in left if cell not in set(layer)]


@contextmanager
def _scratch(store: Store) -> Iterator[Store]:
    """A store that all machines of a cluster see, gone after."""
    folder = locking.scratch(store.local_root or Path(tempfile.gettempdir()))
    try:
        yield Store(folder).open()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy(source: Store, original: Cell, target: Store, cell: Cell, **facts: Any) -> None:
    """The values of a finished cell under another key, with the facts of where and when they were made."""
    if original == cell:
        target.copy(cell, source)
        return
    rows, meta = source.read(original), source.metadata(original.path)
    measured = [name for name in SCHEMAS[cell.table].schema.names if name not in {"cell", *cell.columns}]
    tensors = source.tensors(original) if meta["artifact"] else None
    values = {name: rows[name].to_pylist() for name in measured}
    target.write(cell, values, tensors, **{**meta["facts"], **facts})


def differences(cell: Cell, store: Store, again: Cell, other: Store) -> tuple[str, ...]:
    """In what a cell's values and tensors differ from those made ``again``, but for times and places."""
    # Keys are left out: equal, or those of the same code before and after an edit.
    columns = [name for name in SCHEMAS[cell.table].measured if name not in ("cell", "network")]
    rows = differing(store.read(cell), other.read(again), columns, "made again")
    found = [f"{column}: {text}" for column, text in rows.items()]
    if store.metadata(cell.path)["artifact"]:
        before, after = store.tensors(cell), other.tensors(again)
        for name in sorted(before):
            if name not in after or not np.array_equal(before[name], after[name]):
                found.append(f"tensor {name}: {_tensors(before[name], after.get(name))}")
    return tuple(found)


def _tensors(a: np.ndarray, b: np.ndarray | None) -> str:
    if b is None or a.shape != b.shape:
        return f"shape {a.shape}, made again {None if b is None else b.shape}"
    return f"{int((a != b).sum())} of {a.size} values, by up to {np.abs(a.astype(np.float64) - b).max():.3g}"
