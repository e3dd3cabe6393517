"""What the cells were made with: Python, libraries, machines, own code."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import HOLE, Layout, Line, Table

_NOTE = "Read from the cells' files. Several lines of one name: not all cells were made with the same."


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each name and version."""
    lines: list[Line] = [
        (row["name"], row["version"], HOLE if row["cells"] is None else f"{row['cells']:,}") for row in rows
    ]
    if lines:
        yield Table("versions", "Versions", _NOTE, ("what", "version", "cells"), lines)


LAYOUT = Layout("versions", lay_out, printed=False, in_csv=False)
