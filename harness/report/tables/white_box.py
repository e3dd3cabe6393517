"""The white box (V-E): attacks made on each network itself."""

from collections.abc import Iterable, Iterator

from harness.report.recorded import Row
from harness.report.tables import credit
from harness.report.tables.accuracy import accuracy, note
from harness.report.tables.table import (
    Layout,
    Line,
    Table,
    failing,
    faint_lines,
    named,
    with_holes_counted,
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, attack and epsilon, a column for each step size."""
    divisors = sorted({row["divisor"] for row in rows}, key=lambda divisor: (divisor is None, divisor))
    networks: dict[tuple[str, str], dict[float | None, Row]] = {}
    for row in rows:
        networks.setdefault((row["line"], row["attack_title"]), {})[row["divisor"]] = row
    first_rows = [next(iter(by_divisor.values())) for by_divisor in networks.values()]
    lines: list[Line] = [
        (named(first), first["attack_title"], *(accuracy(by_divisor.get(divisor)) for divisor in divisors))
        for first, by_divisor in zip(first_rows, networks.values(), strict=True)
    ]
    header: Line = ("network", "attack", *map(_step_size, divisors))
    if any(row["credit"] is not None for row in rows):
        header = (*header, "best control", "credit")
        smallest = [by_divisor[_smallest_step(by_divisor)] for by_divisor in networks.values()]
        lines = [
            (*line, credit.control([row]), credit.credit(row))
            for line, row in zip(lines, smallest, strict=True)
        ]
    text = note(study, rows) + credit.note(study, rows)
    if divisors != [None]:
        text += " Columns: the attack's step size; credit is at the smallest."
    if study["paper"]:
        text += " The paper's numbers cannot be read in its text."
    text += failing(rows)
    yield with_holes_counted(
        Table("white_box", "White box (V-E)", text, header, lines, faint_lines(first_rows))
    )


def _smallest_step(divisors: Iterable[float | None]) -> float | None:
    return max(divisors, key=lambda divisor: divisor or 0)


def _step_size(divisor: float | None) -> str:
    return "accuracy" if divisor is None else f"eps/{divisor:g}"


LAYOUT = Layout("over_seeds where layout = 'white_box'", lay_out)
