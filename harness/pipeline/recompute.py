"""A seeded sample of finished cells made again, and compared value by value.

A cell is made again from the very files that it was made from, in a folder of its own.
"""

import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import HarnessError
from harness.pipeline.run import Run, Silent, check, work_of
from harness.pipeline.steps import STEPS, Step
from harness.results import locking
from harness.results.cells import Cell
from harness.results.records import SCHEMAS
from harness.results.store import Store
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

    ``workers`` as in ``ComputeSpec``; None takes the study's, and for results in an object store this process
    alone. Raises HarnessError for data that are missing or others than the study's.
    """
    if workers is None and store.local_root is None:
        workers = 0
    studies = {name: record for name, record in store.studies().items() if study in (None, name)}
    for name, steps in _drawn(store, studies, count, seed).items():
        settings = reading.build(studies[name]["study"])
        if workers is not None:
            compute = settings.compute.model_copy(update={"workers": workers})
            settings = settings.model_copy(update={"compute": compute})
        yield from _study(store, settings, steps, data)


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
    try:
        for step, cells in wanted.items():
            if cells:
                yield from _step(run, store, step, cells)
    finally:
        run.close()


def _among(cells: Iterable[Cell], paths: Container[str]) -> list[Cell]:
    return [cell for cell in cells if cell.path.as_posix() in paths]


def _step(run: Run, store: Store, step: Step, wanted: list[Cell]) -> Iterator[Finding]:
    """Cells of one step: none of them needs another."""
    # Where all machines of a cluster see it.
    folder = locking.scratch(store.local_root or Path(tempfile.gettempdir()))
    try:
        run.store, run.only, run.failed = Store(folder).open(), frozenset(wanted), {}
        for need in {need for cell in wanted for need in cell.needs}:
            run.store.copy(need, store)
        work_of(step).make(run)
        for cell in wanted:
            failure = run.failed.get(cell.title)
            reasons = (failure.reason,) if failure else differences(cell, store, cell, run.store)
            yield Finding(run.study.name, cell.title, reasons)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def differences(cell: Cell, store: Store, again: Cell, other: Store) -> tuple[str, ...]:
    """In what a cell's values and tensors differ from those made ``again``, but for times and places."""
    found = []
    ours, theirs = store.read(cell), other.read(again)
    for column in SCHEMAS[cell.table].measured:
        if column in ("cell", "network"):
            continue  # keys: equal, or those of the same code before and after an edit
        a, b = ours[column], theirs[column]
        if not a.equals(b):
            found.append(f"{column}: {_rows(a, b)}")
    if store.metadata(cell.path)["artifact"]:
        before, after = store.tensors(cell), other.tensors(again)
        for name in sorted(before):
            if name not in after or not np.array_equal(before[name], after[name]):
                found.append(f"tensor {name}: {_tensors(before[name], after.get(name))}")
    return tuple(found)


def _rows(a: pa.ChunkedArray, b: pa.ChunkedArray) -> str:
    if len(a) != len(b):
        return f"{len(a)} rows, made again {len(b)}"
    pairs = [(x, y) for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True) if x != y]
    numbers = [abs(x - y) for x, y in pairs if isinstance(x, float) and isinstance(y, float)]
    return f"{len(pairs)} of {len(a)} rows" + (f", by up to {max(numbers):.3g}" if numbers else "")


def _tensors(a: np.ndarray, b: np.ndarray | None) -> str:
    if b is None or a.shape != b.shape:
        return f"shape {a.shape}, made again {None if b is None else b.shape}"
    return f"{int((a != b).sum())} of {a.size} values, by up to {np.abs(a.astype(np.float64) - b).max():.3g}"
