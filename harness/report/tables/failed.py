"""What could not be made, root causes alone."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import Layout, Line, Table


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    if not rows:
        return
    causes = [row for row in rows if not row["waits"]]
    waiting = len(rows) - len(causes)
    note = f"{waiting} more wait for them: `harness tables missing`. " if waiting else ""
    lines: list[Line] = [(row["study"], row["title"], row["reason"]) for row in causes]
    yield Table("failed", "Failed", note + "The next run tries them again.", ("study", "what", "why"), lines)


LAYOUT = Layout("failed", lay_out, of_studies=False, in_csv=False)
