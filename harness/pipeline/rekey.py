"""Finished cells kept through an edit of code from outside that changes no number.

The digest of a package is in the keys of the cells made with it, so any edit makes them anew, that of a
comment too. Here a seeded sample of them is made again with the code as it is now; where every value is
equal, all of them get the keys that they would have now, and the study's record keeps that they did.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.pipeline.recompute import Finding, copy, made_again, with_workers
from harness.pipeline.run import Run, Silent, check, keep_record
from harness.results.cells import Cell
from harness.results.store import Store
from harness.seeds import generator
from harness.study.plan import plan
from harness.study.spec import Study


@dataclass(frozen=True)
class Rekeyed:
    """What was found: the ``sample``, and how many ``cells`` got new keys, none where a value differs."""

    sample: tuple[Finding, ...]
    cells: int


def rekey(study: Study, store: Store, data: Path | None, count: int, seed: int) -> Rekeyed:
    """Give a study's finished cells the keys of its code as it is, if ``count`` of them made again are equal.

    Raises HarnessError where the study was not run here, or its code is what its cells were made with.
    """
    run = check(with_workers(study, None, store), store, data, Silent())
    pairs, before = _moved(run, _earlier_code(store, study))
    sample = _drawn(pairs, count, seed)
    with run:
        compared = tuple(made_again(run, store, sample, pairs))
    if any(each.differences for each in compared):
        return Rekeyed(compared, 0)
    run.store = store
    facts = {"from": dict(before), "to": dict(run.plan.code), "cells": len(pairs), "sample": len(compared)}
    for new, old in _in_order(pairs):
        copy(store, old, store, new, rekeyed_from=old.key)
    keep_record(run, {**facts, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    _remove(store, [*pairs.values()])
    return Rekeyed(compared, len(pairs))


def _earlier_code(store: Store, study: Study) -> list[Mapping[str, str]]:
    """The digests that the study's cells may have been made with, the latest first."""
    recorded = store.studies().get(study.name)
    if recorded is None:
        raise HarnessError(f"no study '{study.name}' in '{store.folder}': nothing to give new keys")
    about = recorded["about"]
    return [about.get("code", {}), *about.get("earlier_code", [])]


def _moved(run: Run, earlier: list[Mapping[str, str]]) -> tuple[dict[Cell, Cell], Mapping[str, str]]:
    """Cell as it would be now -> the finished cell of other code, and that code: the latest that has any.

    Those that have their new keys already are among them: by another study that shares them, or by a command
    that was stopped before it had told the record.
    """
    if not run.plan.code:
        raise HarnessError(f"study '{run.study.name}' names no code from outside: nothing to give new keys")
    ground = run.plan.ground
    fingerprint = ground.data["train"]["fingerprint"]
    now = run.plan.cells()
    for code in earlier:
        if code.keys() == run.plan.code.keys():
            then = plan(run.study, fingerprint, ground.weights, code).cells()
            missing = {*run.store.missing(now)}
            pairs = {
                new: old
                for new, old in zip(now, then, strict=True)
                if new != old and run.store.is_done(old) and (new in missing or _was(run.store, new, old))
            }
            if pairs:
                return pairs, code
    raise HarnessError(
        f"no finished cell of study '{run.study.name}' was made with other code: nothing to give new keys"
    )


def _was(store: Store, new: Cell, old: Cell) -> bool:
    """Whether a finished cell is a copy of the old one."""
    return bool(store.metadata(new.path)["facts"].get("rekeyed_from") == old.key)


def _drawn(pairs: Mapping[Cell, Cell], count: int, seed: int) -> list[Cell]:
    """The cells to make again: one for each table and each set of functions from outside, then others.

    A cell that is only made from others, which are of that code, would be equal whatever it does.
    """
    rng = generator(seed, "rekey")
    cells = [cell for cell, old in pairs.items() if cell.spec.get("code") != old.spec.get("code")]
    order = [cells[position] for position in rng.permutation(len(cells))]
    first: dict[tuple[str, ...], Cell] = {}
    for cell in order:
        first.setdefault((cell.table, *_functions(cell.spec)), cell)
    rest = [cell for cell in order if cell not in first.values()]
    return [*first.values(), *rest][: max(count, len(first))]


def _functions(spec: Any) -> Iterator[str]:
    """Those that a cell's spec names in ``use``, wherever they stand."""
    if isinstance(spec, Mapping):
        if isinstance(spec.get("use"), str):
            yield spec["use"]
        for value in spec.values():
            yield from _functions(value)


def _in_order(pairs: Mapping[Cell, Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Each pair after those that its cell needs."""
    given: set[Cell] = set()
    waiting = dict(pairs)
    while waiting:
        ready = [new for new in waiting if not (set(new.needs) & waiting.keys()) - given]
        for new in ready:
            yield new, waiting.pop(new)
        given.update(ready)


def _remove(store: Store, cells: list[Cell]) -> None:
    """The cells that no study names any more."""
    named = {cell["path"] for record in store.studies().values() for cell in record["cells"]}
    for cell in cells:
        if cell.path.as_posix() not in named:
            store.remove(cell.path)
