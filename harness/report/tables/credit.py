"""The best control beside the accuracies, and what a network has beyond it."""

from collections.abc import Iterator, Sequence

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import Layout, Line, Table, failing, faint_lines, named

_NOTE = (
    "Credit: accuracy minus the best control's in the same seed, in points; then whether the network is "
    "better than the best control (yes, no, not shown)."
)
_ONE_SEED = " One seed: test images only, so that nothing is shown to be better."


def credit(row: Row | None) -> str:
    """A row of `over_seeds`: '-14.5 no'. Empty for a control, a base network, and without a control."""
    if row is None or row["credit"] is None:
        return ""
    return f"{row['credit']:+.1f} {row['better']}"


def control(rows: Sequence[Row]) -> str:
    """The best control of rows that share it: '83.3 twin'."""
    for row in rows:
        if row["control_accuracy"] is not None:
            return f"{row['control_accuracy']:.1f} {_short(row['control_title'])}"
    return ""


def note(study: Row, rows: Sequence[Row]) -> str:
    """What the credit is, where any row has one."""
    if all(row["credit"] is None for row in rows):
        return ""
    return f" {_NOTE}{_ONE_SEED if len(study['seeds']) == 1 else ''}"


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network and test, with intervals."""
    header = ("network", "test", "images", "accuracy", "best control", "its", "credit", "better")
    lines = [_line(row) for row in rows]
    if lines:
        interval = "paired over the test images" if len(study["seeds"]) == 1 else "t, over seeds"
        text = f"{_NOTE} [95 % interval, {interval}]{_ONE_SEED if len(study['seeds']) == 1 else ''}"
        text += failing(rows)
        yield Table("credit", "Credit over the best control", text, header, lines, faint_lines(rows))


def _short(titles: str) -> str:
    """The titles of controls below a header that says what they are."""
    return titles.replace("control: ", "")


def _line(row: Row) -> Line:
    made = with_interval(row["credit"], row["low"], row["high"], "+")
    numbers = (f"{row['accuracy']:.1f}", _short(row["control_title"]), f"{row['control_accuracy']:.1f}")
    return (named(row), row["test"], str(row["images"]), *numbers, made, row["better"])


LAYOUT = Layout("credit_over_seeds", lay_out, printed=False, in_csv=False)
