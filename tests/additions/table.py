"""The accuracy of every network on clean images."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import Layout, Table


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    lines = [(row["name"], f"{row['accuracy']:.1f}") for row in rows]
    yield Table("clean", "Clean accuracy", "In per cent.", ("network", "accuracy"), lines)


LAYOUT = Layout("accuracies where access = 'clean'", lay_out, in_csv=False)
