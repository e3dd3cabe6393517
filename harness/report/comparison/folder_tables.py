"""What differs between two folders of results, as tables: by cause, by what is missing, by what it does."""

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from harness.report.comparison.causes import Cause
from harness.report.comparison.folders import Different, Folders, What
from harness.report.database import query
from harness.report.tables.numbers import exact
from harness.report.tables.table import Line, Table

EXAMPLES = 3  # cells and columns named of a group
MOVED = 12  # accuracies that are shown, those that moved most
_BY_CAUSE = (
    "The likely cause of each cell whose values differ: what was asked for otherwise (a setting, code from "
    "outside or a method's revision, the data), else the versions it was made with, else the machine. "
    "own: cells that this is true of; the others were made from them."
)
_MOVED = (
    "In per cent, the mean over the seeds: {shown} of {count} numbers that differ, the largest changes first."
)

Row = Mapping[str, Any]


def summary(found: Folders) -> str:
    """A line: how many cells each folder holds, and how many are equal."""
    equal = [what for what in found.both if what not in {each.what for each in found.different}]
    renamed = sum(found.a.done[what] != found.b.done[what] for what in equal)
    text = f"a: {len(found.a.done)} cells, b: {len(found.b.done)}; {len(equal)} have equal values"
    text += f" ({renamed} under another key)" if renamed else ""
    return f"{text}, {len(found.different)} differ, {len(found.one_sided)} are in one alone"


def tables(found: Folders, moved: Iterable[Table]) -> list[Table]:
    """For people: groups of cells with examples."""
    made = [_by_cause(found.different), _one_sided(found.one_sided), *moved]
    return [table for table in made if table.rows]


def cell_by_cell(found: Folders, moved: Iterable[Table]) -> list[Table]:
    """For programs: every cell that differs or is in one folder alone."""
    different: list[Line] = [
        (*_place(each.what), "; ".join(_words(each.columns)), _kinds(each.causes), _causes(each.causes))
        for each in found.different
    ]
    alone: list[Line] = [(*_place(what), side, state) for side, what, state in found.one_sided]
    place = ("study", "table", "seed", "cell")
    return [
        Table("differing", "", "", (*place, "differences", "kind", "cause"), different),
        Table("one_side", "", "", (*place, "in", "in_the_other"), alone),
        *moved,
    ]


def moved(
    a: duckdb.DuckDBPyConnection, b: duckdb.DuckDBPyConnection, studies: Mapping[str, str], most: int | None
) -> Table:
    """The accuracies before and after, those that moved most first; ``most`` of them, or all."""
    before, after = _means(a), _means(b)
    rows = []
    for (study, *rest), row in before.items():
        other = after.get((studies.get(study), *rest))
        if other and abs(other["accuracy"] - row["accuracy"]) > 1e-9:
            rows.append((other["accuracy"] - row["accuracy"], row, other))
    rows.sort(key=lambda each: (-abs(each[0]), each[1]["study"], each[1]["name"], each[1]["position"]))
    if most is None:
        header: Line = ("study", "name", "test", "before", "after", "change")
        lines: list[Line] = [
            (
                row["study"],
                row["name"],
                row["test"],
                exact(row["accuracy"]),
                exact(other["accuracy"]),
                exact(change),
            )
            for change, row, other in rows
        ]
        return Table("moved", "", "", header, lines)
    shown = [_moved_line(*each) for each in rows[:most]]
    note = _MOVED.format(shown=len(shown), count=len(rows))
    header = ("network", "test", "a", "b", "b - a")
    return Table("moved", "What that does to the accuracies", note, header, shown)


def _means(connection: duckdb.DuckDBPyConnection) -> dict[tuple[Any, ...], Row]:
    rows = query(connection, "from means").to_pylist()
    keys = ("study", "name", "access", "attack", "norm", "epsilon", "step_size")
    return {tuple(row[key] for key in keys): row for row in rows}


def _moved_line(change: float, row: Row, other: Row) -> Line:
    numbers = f"{row['accuracy']:.1f}", f"{other['accuracy']:.1f}", f"{change:+.1f}"
    return (row["title"], row["test"], *numbers)


def _by_cause(different: list[Different]) -> Table:
    """A line for each cause, those of most cells first."""
    groups: dict[tuple[str, str], list[Different]] = {}
    for each in different:
        groups.setdefault((_kinds(each.causes), _causes(each.causes)), []).append(each)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines: list[Line] = [(kind, words, *_group(mine)) for (kind, words), mine in ordered]
    header = ("kind", "likely cause, a -> b", "cells", "own", "columns", "for example")
    return Table("causes", "Cells whose values differ", _BY_CAUSE, header, lines)


def _group(mine: list[Different]) -> Line:
    own = [each for each in mine if any(cause.is_own for cause in each.causes)]
    names = list(dict.fromkeys(column for each in mine for column in each.columns))
    columns = ", ".join(names[:EXAMPLES]) + (" ..." if len(names) > EXAMPLES else "")
    examples = [*own, *(each for each in mine if each not in own)]
    return (str(len(mine)), str(len(own)), columns, _examples([each.what for each in examples]))


def _one_sided(alone: list[tuple[str, What, str]]) -> Table:
    groups: dict[tuple[str, str, str], list[What]] = {}
    for side, what, state in alone:
        groups.setdefault((side, state, what[1]), []).append(what)
    lines: list[Line] = [
        (side, table, str(len(mine)), state, _examples(mine)) for (side, state, table), mine in groups.items()
    ]
    header = ("in", "table", "cells", "in the other", "for example")
    return Table("one_side", "Cells that one folder alone holds", "", header, lines)


def _examples(cells: list[What]) -> str:
    several = len({seed for _, _, seed, _ in cells}) > 1
    named = [_named(what, several) for what in cells[:EXAMPLES]]
    return "; ".join(named) + (" ..." if len(cells) > EXAMPLES else "")


def _named(what: What, several: bool) -> str:
    """With its seed, where the cells are of several."""
    _, _, seed, title = what
    return f"{title} (seed {seed})" if several and seed is not None else title


def _place(what: What) -> tuple[str, str, str, str]:
    study, table, seed, title = what
    return study, table, exact(seed), title


def _words(columns: Mapping[str, str]) -> list[str]:
    return [f"{column}: {text}" for column, text in columns.items()]


def _kinds(causes: tuple[Cause, ...]) -> str:
    return ", ".join(dict.fromkeys(cause.kind for cause in causes))


def _causes(causes: tuple[Cause, ...]) -> str:
    return ", ".join(sorted({cause.words for cause in causes}))
