"""The paper's claims: which of them this study reproduces, and by which rule."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import Layout, Line, Table, distinct

_NOTE = (
    "[95 % interval]. not reproduced: the interval lies on the other side; not shown: it holds both; "
    "unreadable: the number is not in the paper's text. Where a control is not below the networks, the "
    "effect is there and the bound is not its cause. The rule of each claim: docs/scorecard.md."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each thing that a claim speaks of."""
    if not rows:
        return
    has_paper = any(row["paper"] is not None for row in rows)
    header: Line = ("claim", "of", "verdict", "here", "images", "best control", "rests on")
    if has_paper:
        header = (*header[:3], "paper", *header[3:])
    lines = [_line(row, has_paper) for row in rows]
    yield Table("scorecard", "The paper's claims", f"{_counted(rows)} {_NOTE}", header, lines)


def _counted(rows: list[Row]) -> str:
    """How many rows have each verdict, in the order of their first places."""
    verdicts = [row["verdict"] for row in rows]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in distinct(verdicts))
    return f"{len(rows)} rows: {counts}."


def _line(row: Row, has_paper: bool) -> Line:
    return (
        f"{row['words']} ({row['source']})",
        row["item"] or "",
        row["verdict"],
        *((_number(row["paper"], row["unit"]),) if has_paper else ()),
        _here(row),
        "" if row["images"] is None else f"{row['images']:,}",
        row["control"] or "",
        row["rests_on"],
    )


def _here(row: Row) -> str:
    if row["ours"] is None or row["unit"] == "sigma":
        return _number(row["ours"], row["unit"])
    if row["unit"] == "slope":
        return f"{row['ours']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] in the slope"
    sign = "+" if row["unit"] == "points" else ""
    return f"{with_interval(row['ours'], row['low'], row['high'], sign)} {row['unit']}"


def _number(value: float | None, unit: str | None) -> str:
    """With a sign where it is a difference, with all its digits where it is a sigma."""
    if value is None:
        return ""
    if unit == "sigma":
        return f"{value:.4f}"
    return f"{value:+.2f}" if unit == "points" else f"{value:.2f}"


LAYOUT = Layout("scorecard", lay_out, printed=False, in_csv=False)
