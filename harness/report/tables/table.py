"""A table ready to be printed, and how one is laid out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from harness.report.recorded import Row

HOLE = "-"  # a value that is planned and not measured yet
FAILS = "†"  # the network fails its checks

Line = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table ready to be printed; ``note`` says what a reader needs to know of its cells.

    ``faint``: positions of rows that are not to be believed, greyed in a terminal.
    """

    name: str
    title: str
    note: str
    header: Line
    rows: list[Line]
    faint: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Layout:
    """How the rows of an SQL view become tables.

    ``lay_out`` gets a study's row of `studies` and the rows of ``source`` that are the study's (an empty row
    and all rows, where the table is of no study). It makes no table where there is nothing to show.
    """

    source: str  # the view, with a condition where not all of it is laid out
    lay_out: Callable[[Row, list[Row]], Iterable[Table]]
    other_names: tuple[str, ...] = ()  # under which all its tables may be picked as well
    parts: tuple[str, ...] = ()  # names of tables that it makes for some data sets each
    of_studies: bool = True
    printed: bool = True  # where no tables are picked
    of_several_seeds: bool = False  # then printed only of studies that have several
    in_csv: bool = True  # then a part of all views as CSV: not where its numbers stand in another, too


def with_holes_counted(table: Table) -> Table:
    """The same table; its note says how many values are missing."""
    holes = sum(line.count(HOLE) for line in table.rows)
    plural = "s" if holes > 1 else ""
    missing = f" {holes} cell{plural} missing ({HOLE})." if holes else ""
    return replace(table, note=table.note + missing)


def named(row: Row) -> str:
    """What a line calls its network: marked where it fails its checks."""
    return f"{row['title']} {FAILS}" if row["verdict"] == "fail" else str(row["title"])


def faint_lines(rows: Iterable[Row]) -> frozenset[int]:
    """Positions of the lines, one a row, whose network fails its checks."""
    return frozenset(position for position, row in enumerate(rows) if row["verdict"] == "fail")


def failing(rows: Iterable[Row]) -> str:
    """Why the numbers of some of these rows' networks are not to be believed, network by network."""
    reasons = {row["title"]: row["reason"] for row in rows if row["verdict"] == "fail"}
    return "".join(f" {FAILS} {title}: {reason}." for title, reason in reasons.items())


def as_table(name: str, content: pa.Table, text: Callable[[Any], str]) -> Table:
    """The rows of a query, each value written by ``text``."""
    columns = [[text(value) for value in column.to_pylist()] for column in content.columns]
    return Table(name, name, "", tuple(content.column_names), list(zip(*columns, strict=True)))


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of its first place."""
    return list(dict.fromkeys(values))


def attack_of(row: Row) -> tuple[str, float | None]:
    """What tells one column of attacked images from another."""
    return row["attack"], row["epsilon"]
