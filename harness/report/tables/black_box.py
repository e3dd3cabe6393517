"""Tables IV to VI: the base network and the (k, n) grids of the bound's defense, black box.

All other networks stand in Table VII.
"""

from collections.abc import Iterator, Mapping, Sequence

from harness.report.recorded import Row
from harness.report.tables import credit
from harness.report.tables.accuracy import accuracy, note
from harness.report.tables.table import Layout, Line, Table, attack_of, distinct, failing, with_holes_counted

_NARROW = 3  # so many columns have room for the paper's numbers beside ours
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
        shown = [*base.values(), *defended]
        text = note(study, shown) + credit.note(study, shown) + failing(shown)
        yield with_holes_counted(Table(name, title + which, text, header, lines))
    if base and not grids:
        alone: list[Line] = [(row["attack_title"], accuracy(row)) for row in base.values()]
        text = note(study, [*base.values()])
        yield with_holes_counted(Table(name, title, text, ("attack", "base"), alone))


def _grid(base: Mapping[tuple[str, float | None], Row], defended: list[Row]) -> tuple[Line, list[Line]]:
    """Header and lines in the paper's layout: the base network once, beside the first n of each attack.

    Below each attack the best control, and what the networks have beyond it.
    """
    by_settings = {(*attack_of(row), row["k"], row["n"]): row for row in defended}
    ks, ns = distinct(row["k"] for row in defended), distinct(row["n"] for row in defended)
    titles = {attack_of(row): row["attack_title"] for row in [*base.values(), *defended]}
    lines: list[Line] = []
    for attack, title in titles.items():
        cells = {n: [by_settings.get((*attack, k, n)) for k in ks] for n in ns}
        for n in ns:
            first = (title, str(n), _cell(base.get(attack), ks)) if n == ns[0] else ("", str(n), "")
            lines.append((*first, *(_cell(row, ks) for row in cells[n])))
        beside = credit.control([row for rows in cells.values() for row in rows if row])
        if beside:
            lines.append(("", "control", beside, *("" for _ in ks)))
            lines += [("", f"credit {n}", "", *map(credit.credit, cells[n])) for n in ns]
    return ("attack", "n", "base", *(f"k={k:g}" for k in ks)), lines


def _cell(row: Row | None, ks: Sequence[float]) -> str:
    """The accuracy; where there are many columns the paper's number goes below it."""
    return accuracy(row).replace(" (", "\n(") if len(ks) > _NARROW else accuracy(row)


_PARTS = tuple(name for name, _ in _PAPER.values())

LAYOUT = Layout("over_seeds where layout = 'black_box'", lay_out, parts=_PARTS)
