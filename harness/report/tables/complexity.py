"""V-F: seconds of each defense, and how they grow with the number of training images."""

from collections.abc import Iterator
from statistics import fmean

from harness.report.recorded import Row
from harness.report.tables.numbers import duration
from harness.report.tables.table import HOLE, Layout, Line, Table, distinct

_NOTE = (
    "Seconds of making the training images (attacking them all on the base network; the bound's are "
    "drawn while it is trained) and of training on them, mean over the seeds. The search for "
    "neighbours is not in it: `harness benchmark bound` measures that."
)
_GROWTH = (
    "Slope of log seconds over log training images [95 % t interval], over studies that differ in "
    "their size: 1 is in proportion to the images. adversarial training - bound: above 0 where the "
    "bound's seconds grow more slowly, as V-F says; n perturbations an image and m steps of an attack "
    "are factors, which change no slope."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, mean over the seeds."""
    lines: list[Line] = []
    for name in distinct(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name and row["total_s"] is not None]
        if mine:
            lines.append(_line(mine))
    if lines:
        images = (
            f" {rows[0]['images']:,} training images, {', '.join(distinct(row['device'] for row in rows))}."
        )
        header = ("network", "epochs", "making", "training", "both", "ms an image")
        yield Table("complexity", "Cost of the defenses (V-F)", _NOTE + images, header, lines)


def _line(rows: list[Row]) -> Line:
    seconds = (fmean(row[name] for row in rows) for name in ("making_s", "training_s", "total_s"))
    each = fmean(row["total_ms_per_image"] for row in rows)
    return (rows[0]["title"], str(rows[0]["epochs"]), *map(duration, seconds), f"{each:.2f}")


def lay_out_growth(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each kind of adversarial training beside each network of the bound's defense."""
    if rows:
        header = (
            *("data", "images", "sizes", "adversarial training", "slope", "bound's defense", "its slope"),
            *("difference", "times as long"),
        )
        lines = [_growth(row) for row in rows]
        yield Table("complexity_claim", "Growth of the cost (V-F)", _GROWTH, header, lines)


def _growth(row: Row) -> Line:
    interval = (
        HOLE if row["low"] is None else f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    )
    return (
        row["dataset"],
        f"{row['fewest']:,} to {row['most']:,}",
        str(row["sizes"]),
        row["title"],
        f"{row['slope']:.2f}",
        row["bound_title"],
        f"{row['bound_slope']:.2f}",
        interval,
        f"{row['ratio']:.2g}",
    )


LAYOUT = Layout("complexity", lay_out, printed=False, in_csv=False)
GROWTH = Layout("complexity_claim", lay_out_growth, of_studies=False, printed=False, in_csv=False)
