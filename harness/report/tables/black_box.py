"""Tables IV to VI: the base network and the (k, n) grids of the bound's defense, black box.

All other networks stand in Table VII.
"""

from collections.abc import Iterator, Mapping

from harness.report.recorded import Row
from harness.report.tables.accuracy import accuracy, note
from harness.report.tables.table import Layout, Line, Table, attack_of, distinct, with_holes_counted

_PAPER = {  # the paper's data set -> name and title of its table
    "mnist": ("table4", "Table IV: black box"),
    "cifar10": ("table5", "Table V: black box"),
    "tinyimagenet": ("table6", "Table VI: black box"),
}


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A table for each grid; of two defenses of the method, each has its own."""
    base = {attack_of(row): row for row in rows if row["role"] == "base"}
    grids: dict[str, list[Row]] = {}
    for row in rows:
        if row["role"] == "defense":
            grids.setdefault(row["grid"], []).append(row)
    name, title = _PAPER.get(study["paper"], ("black_box", "Black box (layout of Tables IV-VI)"))
    for grid, defended in grids.items():
        header, lines = _grid(base, defended)
        which = f", {grid}" if len(grids) > 1 else ""
        text = note(study, [*base.values(), *defended])
        yield with_holes_counted(Table(name, title + which, text, header, lines))
    if base and not grids:
        alone: list[Line] = [(row["attack_title"], accuracy(row)) for row in base.values()]
        text = note(study, [*base.values()])
        yield with_holes_counted(Table(name, title, text, ("attack", "base"), alone))


def _grid(base: Mapping[tuple[str, float | None], Row], defended: list[Row]) -> tuple[Line, list[Line]]:
    """Header and lines in the paper's layout: the base network once, beside the first n of each attack."""
    by_settings = {(*attack_of(row), row["k"], row["n"]): row for row in defended}
    ks, ns = distinct(row["k"] for row in defended), distinct(row["n"] for row in defended)
    titles = {attack_of(row): row["attack_title"] for row in [*base.values(), *defended]}
    lines: list[Line] = []
    for attack, title in titles.items():
        for n in ns:
            first = (title, str(n), accuracy(base.get(attack))) if n == ns[0] else ("", str(n), "")
            lines.append((*first, *(accuracy(by_settings.get((*attack, k, n))) for k in ks)))
    return ("attack", "n", "base", *(f"k={k:g}" for k in ks)), lines


_PARTS = tuple(name for name, _ in _PAPER.values())

LAYOUT = Layout("over_seeds where layout = 'black_box'", lay_out, parts=_PARTS)
