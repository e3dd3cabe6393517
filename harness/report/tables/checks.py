"""The checks in short: what each of them measured over the networks, and how many it does not pass."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import significant
from harness.report.tables.table import HOLE, Layout, Line, Table

_NOTE = (
    "Over all networks and seeds: the smallest and the largest number that each check measured, and how many "
    "networks it warns of, fails, or cannot judge. A network that fails any check is not ranked. The number "
    "of every network: `harness tables check_results`; what each check is: docs/checks.md."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each check."""
    header = ("check", "threshold", "lowest", "highest", "warn", "fail", "not judged")
    if rows:
        yield Table("checks", "Checks", _NOTE, header, [_line(row) for row in rows])


def _line(row: Row) -> Line:
    numbers = (_number(row[name]) for name in ("threshold", "lowest", "highest"))
    counts = (str(row[name] or "") for name in ("warn", "fail", "unjudged"))
    return (row["check"].replace("_", " "), *numbers, *counts)


def _number(value: float | None) -> str:
    return HOLE if value is None else significant(value, 2)


LAYOUT = Layout("checks", lay_out)
