"""Fragility: how little it takes to undo an attack on the very network that it was made on."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import HOLE, Layout, Line, Table, with_holes_counted

_COLUMNS = {  # header -> column
    "fooled %": "fooled",
    "rounded %": "rounded",
    "noise .02 %": "noisy",
    "bfloat16 %": "bfloat16",
}


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each attack and epsilon; no table where nothing was measured."""
    if all(row["rounded"] is None for row in rows):
        return
    header = ("attack", "images", *_COLUMNS)
    lines = [_line(row) for row in rows]
    title = "Fragility of the attacks"
    yield with_holes_counted(Table("fragility", title, _note(study), header, lines))


def _line(row: Row) -> Line:
    shares = [_share(row, column) for column in _COLUMNS.values()]
    return (row["attack_title"], str(row["images"] or HOLE), *shares)


def _share(row: Row, column: str) -> str:
    """Empty where no image was fooled: there is nothing to undo."""
    if row[column] is None:
        return "" if row["fooled_images"] == 0 else HOLE
    return with_interval(row[column], row[f"{column}_low"], row[f"{column}_high"])


def _note(study: Row) -> str:
    seeds = len(study["seeds"])
    interval = "Wilson's 95 % interval over the images"
    if seeds > 1:
        interval = f"means over {seeds} seeds with the 95 % t interval over them"
    return (
        "Images that fool the base network they were made on, and of those the share that fools it still: "
        f"rounded to 256 levels, with N(0, .02) added, or with the network in bfloat16; {interval}."
    )


LAYOUT = Layout("fragility_over_seeds", lay_out, other_names=("fragility",))
