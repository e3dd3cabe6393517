"""Table II: sigma over the training images."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import HOLE, Layout, Line, Table, distinct, with_holes_counted

_NOTE = (
    "min / mean / max over the training images, in [0, 1], by the nearest neighbour of another class (III-A) "
    "and of any class."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    by_kind = {(row["neighbours"], row["k"]): row for row in rows}
    header: Line = ("k", "other class", "any class")
    lines: list[Line] = []
    for k in distinct(row["k"] for row in rows):
        other, any_class = by_kind["other_class", k], by_kind["any_class", k]
        line: Line = (f"{k:g}", _min_mean_max(other, "sigma"), _min_mean_max(any_class, "sigma"))
        lines.append((*line, _min_mean_max(other, "paper")) if study["paper"] else line)
    if study["paper"]:
        header = (*header, "paper")
    yield with_holes_counted(Table("table2", "Table II: sigma", _NOTE, header, lines))


def _min_mean_max(row: Row, kind: str) -> str:
    values = [row[f"{kind}_{part}"] for part in ("min", "mean", "max")]
    if None in values:
        return HOLE
    is_short = all(round(value, 3) == value for value in values)  # the paper prints three digits
    return " / ".join(f"{value:.{3 if is_short else 4}f}" for value in values)


LAYOUT = Layout("table2", lay_out)
