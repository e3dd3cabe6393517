"""What the checks measured: networks by checks, with the raw numbers."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import significant
from harness.report.tables.table import Layout, Line, Table, distinct, failing, faint_lines, named

_SEVERITY = ("fail", "warn", "pass", "none")
_NOTE = (
    "What each check measured, the worst of the seeds, and what it says where it is not pass; none: it "
    "could not be judged. First line: from where on it fails or warns. A network that fails any check is "
    "not ranked."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, a column for each check."""
    if not rows:
        return
    checks = sorted({row["check"] for row in rows})
    networks: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: -_SEVERITY.index(row["verdict"])):  # the worst is set last
        networks.setdefault(row["name"], {})[row["check"]] = row
    in_order = [networks[name] for name in distinct(row["name"] for row in rows)]
    thresholds = {row["check"]: row["threshold"] for row in rows if row["threshold"] is not None}
    lines: list[Line] = [("threshold", *(_number(thresholds.get(check)) for check in checks), "")]
    first_rows = [next(iter(mine.values())) for mine in in_order]
    for first, mine in zip(first_rows, in_order, strict=True):
        cells = (_cell(mine[check]) if check in mine else "" for check in checks)
        lines.append((named(_judged(first)), *cells, first["network_verdict"]))
    judged = [_judged(first) for first in first_rows]
    faint = frozenset(position + 1 for position in faint_lines(judged))
    header = ("network", *(check.replace("_", " ") for check in checks), "verdict")
    yield Table("check_results", "Checks of each network", _NOTE + failing(judged), header, lines, faint)


def _judged(row: Row) -> Row:
    """The row with its network's verdict in the place of the check's."""
    return {**row, "verdict": row["network_verdict"]}


def _cell(row: Row) -> str:
    number = _number(row["statistic"])
    return number if row["verdict"] == "pass" else f"{number} {row['verdict']}".strip()


def _number(value: float | None) -> str:
    return "" if value is None else significant(value, 2)


_SOURCE = (
    "(select c.*, v.verdict as network_verdict, v.reason from check_results c "
    "join verdicts v on v.study = c.study and v.name = c.name)"
)

LAYOUT = Layout(_SOURCE, lay_out, other_names=("check",), printed=False)
