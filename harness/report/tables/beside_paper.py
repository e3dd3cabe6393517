"""Ours beside the paper's, number by number."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import HOLE, Layout, Line, Table, distinct

_NOTE = (
    "Every number that the paper prints and this study measures [95 % interval]. differs: at 95 %, "
    "with the paper's own sampling error, in every seed and to the same side; a sigma by .001 or more."
    " unreadable: not in the paper's text. Other training sizes, networks and attacks than the paper's"
    " are a reason to differ: see the settings."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each number; none for a data set that is not the paper's."""
    if not rows:
        return
    verdicts = [row["verdict"] for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in distinct(verdicts))
    header = ("where", "what", "of", "paper", "here", "images", "seeds", "verdict")
    lines: list[Line] = [_line(row) for row in rows]
    yield Table("beside_paper", "Beside the paper's numbers", f"{counts}. {_NOTE}", header, lines)


def _line(row: Row) -> Line:
    digits = 4 if row["source"] == "Table II" else 2
    here = HOLE
    if row["ours"] is not None:
        is_sigma = row["source"] == "Table II"
        here = f"{row['ours']:.4f}" if is_sigma else with_interval(row["ours"], row["low"], row["high"])
    return (
        *(row["source"], row["what"], row["item"]),
        "" if row["paper"] is None else f"{row['paper']:.{digits}f}",
        here,
        f"{row['images']:,}" if row["images"] else HOLE,
        "" if row["seeds"] is None else str(row["seeds"]),
        row["verdict"],
    )


LAYOUT = Layout("beside_paper", lay_out, printed=False, in_csv=False)
