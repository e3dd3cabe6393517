"""Cells that are older than the code that they are named with."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import Layout, Line, Table

_NOTE = (
    "This code from outside was edited after these cells were made with it; so many of them, made again with "
    "the new code, were equal in every value."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    if not rows:
        return
    lines: list[Line] = [
        (
            row["study"],
            row["package"],
            f"{row['before']} -> {row['after']}",
            f"{row['sample']} of {row['cells']}",
            row["at"],
        )
        for row in rows
    ]
    header = ("study", "package", "digest", "made again", "at")
    yield Table("rekeyed", "Kept through an edit of code", _NOTE, header, lines)


LAYOUT = Layout("rekeyed", lay_out, of_studies=False, in_csv=False)
