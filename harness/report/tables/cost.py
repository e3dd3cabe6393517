"""What the study cost: seconds of its trainings and attacks, step by step."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import duration, significant
from harness.report.tables.table import HOLE, Layout, Line, Table

_NOTE = (
    "Seconds of the workers, of what stores its own: trainings, each epoch with its test, and attacks."
    " Several work at once, so that a study ends sooner; the search for neighbours, evaluations and "
    "checks store none."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each step."""
    if rows:
        header = ("step", "cells", "done", "time", "per s", "device")
        yield Table("cost", "Cost by step", _NOTE, header, [_line(row) for row in rows])


def _line(row: Row) -> Line:
    rate = significant(row["units"] / row["seconds"], 3) if row["seconds"] else HOLE
    done = f"{row['units']:,} {row['unit']}"
    return (row["step"], f"{row['cells']:,}", done, duration(row["seconds"] or 0), rate, row["device"] or "")


LAYOUT = Layout("cost", lay_out, printed=False, in_csv=False)
