"""The white box (V-E): attacks made on each network itself."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.accuracy import accuracy, note
from harness.report.tables.table import Layout, Line, Table, with_holes_counted


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, attack and epsilon, a column for each step size."""
    divisors = sorted({row["divisor"] for row in rows}, key=lambda divisor: (divisor is None, divisor))
    networks: dict[tuple[str, str], dict[float | None, Row]] = {}
    for row in rows:
        networks.setdefault((row["line"], row["attack_title"]), {})[row["divisor"]] = row
    lines: list[Line] = []
    for (_, attack), by_divisor in networks.items():
        title = next(iter(by_divisor.values()))["title"]
        lines.append((title, attack, *(accuracy(by_divisor.get(divisor)) for divisor in divisors)))
    text = note(study, rows)
    if divisors != [None]:
        text += " Columns: the attack's step size."
    if study["paper"]:
        text += " The paper's numbers cannot be read in its text."
    header = ("network", "attack", *map(_step_size, divisors))
    yield with_holes_counted(Table("white_box", "White box (V-E)", text, header, lines))


def _step_size(divisor: float | None) -> str:
    return "accuracy" if divisor is None else f"eps/{divisor:g}"


LAYOUT = Layout("over_seeds where layout = 'white_box'", lay_out)
