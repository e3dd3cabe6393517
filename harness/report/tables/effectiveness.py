"""Table III: which attacks stay within the bound."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.table import HOLE, Layout, Line, Table, with_holes_counted

_COLUMNS = {  # header -> column, digits after the point
    "fooled %": ("fooled", 1),
    "mean l1": ("mean_l1", 4),
    "within mean %": ("within_mean_sigma", 1),
    "within own %": ("within_own_sigma", 1),
    "effective mean %": ("effective_mean", 1),
    "effective own %": ("effective_own", 1),
}


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    header = ("attack", "images", *_COLUMNS)
    lines = [_line(row) for row in rows]
    title = "Table III: effectiveness of the attacks"
    yield with_holes_counted(Table("table3", title, _note(study, rows), header, lines))


def _line(row: Row) -> Line:
    numbers = [_number(row[column], digits) for column, digits in _COLUMNS.values()]
    return (row["attack_title"], str(row["images"] or HOLE), *numbers)


def _number(value: float | None, digits: int) -> str:
    return HOLE if value is None else f"{value:.{digits}f}"


def _note(study: Row, rows: list[Row]) -> str:
    means = [row["mean_sigma"] for row in rows if row["mean_sigma"] is not None]
    mean = f", {means[0]:.4f}," if means else ""
    note = (
        f"within: mean l1 change at most sigma (k = {study['effectiveness_k']:g}, {study['neighbours']}): "
        f"the training images' mean{mean} or the image's own. effective: within, and fooled."
    )
    if len(study["seeds"]) > 1:
        note += f" Means over the base networks of {len(study['seeds'])} seeds."
    if study["paper"]:
        note += " The paper's numbers cannot be read in its text."
    return note


LAYOUT = Layout("effectiveness_over_seeds", lay_out, other_names=("effectiveness",))
