"""The bound put to the test: for how many images it is refuted that the network is robust within it."""

from collections.abc import Iterator
from math import isinf

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import (
    HOLE,
    Layout,
    Line,
    Table,
    distinct,
    failing,
    faint_lines,
    named,
    with_holes_counted,
)

_NOTE = (
    "Of the test images that the network is right on, the share, in per cent, for which a change was "
    "found that fools it and whose mean l1 is at most sigma(k) of the image's own bound: 'robust within "
    "the imperceptible bound' is refuted there. Attacks find some such changes, not all: the share is a "
    "lower bound, and higher where more attacks were made on the network itself. Last column: the median "
    "over the images of the smallest mean l1 found, over sigma(1)."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, a column for each k."""
    if not rows:
        return
    ks = distinct(row["k"] for row in rows)
    networks: dict[str, dict[float, Row]] = {}
    for row in rows:
        networks.setdefault(row["name"], {})[row["k"]] = row
    first_rows = [mine[ks[0]] for mine in networks.values()]
    lines: list[Line] = [
        (named(first), *(_refuted(mine[k]) for k in ks), _ratio(first))
        for first, mine in zip(first_rows, networks.values(), strict=True)
    ]
    seeds = len(study["seeds"])
    interval = "one seed, Wilson's" if seeds == 1 else f"mean over {seeds} seeds, t"
    attacks = sorted({attack for row in rows for attack in row["attacks"] or ()})
    note = f"{_NOTE} [95 % interval]: {interval}. Attacks: {', '.join(attacks) or 'none yet'}."
    note += failing(first_rows)
    header = ("network", *(f"k={k:g}" for k in ks), "smallest l1 / sigma")
    table = Table("bound_test", "The bound put to the test", note, header, lines, faint_lines(first_rows))
    yield with_holes_counted(table)


def _refuted(row: Row) -> str:
    return HOLE if row["refuted"] is None else with_interval(row["refuted"], row["low"], row["high"])


def _ratio(row: Row) -> str:
    """The median is infinite where no change was found for half of the images."""
    if row["median_ratio"] is None:
        return HOLE
    return "none found" if isinf(row["median_ratio"]) else f"{row['median_ratio'] / row['k']:.2f}"


LAYOUT = Layout("bound_test_over_seeds", lay_out)
