"""Whether results can be trusted: every file read back; and a seeded sample of cells made again, compared value by value.

A cell is made again from the very files that it was made from, in a folder of its own.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness import STEPS, locking, seeds, spec
from harness.cells import Cell
from harness.errors import HarnessError
from harness.plan import cell_title
from harness.records import TABLES
from harness.store import Damaged, Store


def verify(store: Store) -> Iterator[tuple[Path, str | None]]:
    """Read every file back, checkpoints and studies' records as well: (path below the root, None when whole, else what is wrong)."""
    for path in [*store.files(), *store.checkpoints(), *store.records()]:
        try:
            store.check(path)
        except Damaged as error:
            yield path, str(error)
        else:
            yield path, None


@dataclass(frozen=True)
class Finding:
    """What making a cell again showed: empty ``differences`` are equality in every value and every weight."""

    study: str
    title: str
    differences: tuple[str, ...]


def recompute(
    store: Store, count: int, seed: int, data: Path | None, workers: int | None, study: str | None = None
) -> Iterator[Finding]:
    """Make ``count`` finished cells again, drawn by ``seed`` among those of all studies or one, and compare them.

    ``workers`` as in ``ComputeSpec``; None takes the study's, and for results in an object store this process alone.
    Raises HarnessError for data that are missing or others than the study's.
    """
    if workers is None and store.local_root is None:
        workers = 0
    studies = {name: record for name, record in store.studies().items() if study in (None, name)}
    present = {path.as_posix() for path in store.files()}
    done = [
        (name, cell["path"])
        for name, record in studies.items()
        for cell in record["cells"]
        if cell["path"] in present
    ]
    random = seeds.generator(seed, "recompute")
    chosen = sorted(random.choice(len(done), size=min(count, len(done)), replace=False)) if done else []
    for name, record in studies.items():
        paths = {done[position][1] for position in chosen if done[position][0] == name}
        if paths:
            settings = spec.build(record["study"])
            if workers is not None:
                settings = settings.model_copy(
                    update={"compute": settings.compute.model_copy(update={"workers": workers})}
                )
            yield from _study(store, settings, paths, data)


def _study(store: Store, settings: spec.Study, paths: set[str], data: Path | None) -> Iterator[Finding]:
    from harness import pipeline  # and with it all that computes: not for reading files back

    run = pipeline.prepare(settings, store, data, _Silence())
    run.chosen = pipeline.white_box_cells(run)
    cells = {
        step.name: [cell for cell in pipeline.cells_of(run, step.name) if cell.path.as_posix() in paths]
        for step in STEPS
    }
    if sum(map(len, cells.values())) < len(paths):
        raise HarnessError(
            f"the data in '{data}' are not those of study '{settings.name}': its cells cannot be made again from them"
        )
    try:
        for step, wanted in cells.items():
            if wanted:
                yield from _step(run, store, step, wanted)
    finally:
        run.close()


def _step(run: Any, store: Store, step: str, wanted: list[Cell]) -> Iterator[Finding]:
    """Cells of one step: none of them needs another."""
    from harness import pipeline

    folder = locking.scratch(
        store.local_root or Path(tempfile.gettempdir())
    )  # where all machines of a cluster see it
    try:
        run.store, run.only, run.failed = Store(folder).open(), frozenset(wanted), {}
        for need in {need for cell in wanted for need in cell.needs}:
            run.store.copy(need, store)
        pipeline.make(run, step)
        for cell in wanted:
            title = cell_title(cell)
            failure = run.failed.get(title)
            yield Finding(
                run.study.name, title, (failure.reason,) if failure else differences(cell, store, run.store)
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def differences(cell: Cell, first: Store, second: Store) -> tuple[str, ...]:
    """In what a cell's values and tensors differ between two stores, but for times and places."""
    found = []
    ours, theirs = first.read(cell), second.read(cell)
    for column in TABLES[cell.table].measured:
        a, b = ours[column], theirs[column]
        if not a.equals(b):
            found.append(f"{column}: {_rows(a, b)}")
    if first.metadata(cell.path)["artifact"]:
        before, after = first.tensors(cell), second.tensors(cell)
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


class _Silence:
    """A ``pipeline.Progress`` that says nothing: the findings are what is told."""

    def begin(self, step: str, total: int, unit: str, done: int) -> None: ...
    def advance(self, step: str, amount: int = 1, note: str = "") -> None: ...
    def end(self, step: str) -> None: ...
