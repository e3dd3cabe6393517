"""What `harness benchmark` measured: a table for each part."""

from collections.abc import Iterable, Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import significant
from harness.report.tables.table import HOLE, Layout, Line, Table, distinct

_COLUMNS = {  # header -> column, digits that mean something
    "per s": ("per_s", 3),
    "seconds": ("seconds", 3),
    "spread %": ("spread", 2),
    "x harness": ("times_harness", 3),
    "fooled %": ("fooled", 4),
    "l2": ("l2", 4),
    "agree %": ("agreement", 5),
    "candidates": ("candidates", 3),
    "overhead s": ("overhead_s", 2),
}


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    for part in distinct(row["part"] for row in rows):
        yield _part(part, [row for row in rows if row["part"] == part])


def _part(part: str, rows: list[Row]) -> Table:
    """A block for each case; columns that say nothing in this part are left out."""
    columns = {
        title: column for title, column in _COLUMNS.items() if any(row[column[0]] is not None for row in rows)
    }
    lines: list[Line] = []
    for case in distinct(row["case"] for row in rows):
        lines.append((case, *("" for _ in columns)))
        lines += [_contender(row, columns.values()) for row in rows if row["case"] == case]
    places = distinct(_place(row) for row in rows)
    title = f"Benchmark: {part}, {'; '.join(places)}"
    return Table("benchmark", title, _note(rows), ("case", *columns), lines)


def _contender(row: Row, columns: Iterable[tuple[str, int]]) -> Line:
    name = f"  {row['contender']}"
    if row["seconds"] is None:
        name += " (not measured)"
    return (name, *(_value(row[column], digits) for column, digits in columns))


def _value(value: float | None, digits: int) -> str:
    return HOLE if value is None else significant(value, digits)


def _place(row: Row) -> str:
    return f"{row['device']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _note(rows: list[Row]) -> str:
    """How the numbers were made; where nothing was measured, why not."""
    turns = max(row["turns"] for row in rows)
    if turns == 0:
        return "; ".join(distinct(row["note"] for row in rows))
    return (
        f"Medians over {turns} turns, scaled to the whole case; x harness: its time over the harness's, "
        "turn by turn."
    )


LAYOUT = Layout("speed", lay_out, of_studies=False, printed=False, in_csv=False)
