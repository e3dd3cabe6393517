"""Table VII: adversarial training, and any other network, beside the bound's defense."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from harness.report.recorded import Row
from harness.report.tables import credit
from harness.report.tables.accuracy import accuracy, note
from harness.report.tables.table import (
    Layout,
    Line,
    Table,
    attack_of,
    failing,
    faint_lines,
    named,
    with_holes_counted,
)

_NARROW = 4  # so many columns have room for intervals beside the numbers
_TITLE_WIDTH = 20
Attacked = tuple[str, float | None]  # name and epsilon of an attack

_VALIDATED = "imperceptible_bound_validated"
# Below all others, in this order; see view `choice`.
_CHOICES = (_VALIDATED, "imperceptible_bound", "imperceptible_bound_best")
_ON_VALIDATION = (
    " Chosen on validation images, which no training and no other number uses: the network of highest mean "
    "accuracy over clean and attacked images."
)
_ON_TEST = (
    " Chosen on test images, the very images of these accuracies: the network of highest clean accuracy, in "
    "each seed; and, as in the paper, the best one for each attack."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, a column for each attack: the paper's, or all where it prints none."""
    is_printed = any(row["paper"] is not None for row in rows)
    rows = sorted(rows, key=_block)
    columns = {}
    for row in rows:
        # All radii would not fit on a line.
        if not is_printed or row["paper"] is not None or row["attack"] == "none":
            columns[attack_of(row)] = row["attack_title"]
    networks: dict[str, dict[Attacked, Row]] = {}
    for row in rows:
        networks.setdefault(row["line"], {})[attack_of(row)] = row
    first_rows = [next(iter(by_attack.values())) for by_attack in networks.values()]
    lines: list[Line] = [
        (named(first), *(accuracy(by_attack.get(attack)) for attack in columns))
        for first, by_attack in zip(first_rows, networks.values(), strict=True)
    ]
    lines += _credits(networks, list(columns))
    if len(columns) > _NARROW:
        lines = [_stacked(line) for line in lines]
    shown = [
        row for by_attack in networks.values() for row in by_attack.values() if attack_of(row) in columns
    ]
    text = note(study, shown) + credit.note(study, shown) + failing(shown)
    methods = {row["method"] for row in rows}
    text += _ON_VALIDATION if _VALIDATED in methods else ""
    text += _ON_TEST if methods.intersection(_CHOICES) else ""
    text += _left_out(study["controls_left_out"])
    is_papers = study["paper"] == "cifar10"
    title = "Table VII: adversarial training" if is_papers else "Adversarial training (layout of Table VII)"
    header = ("network", *columns.values())
    yield with_holes_counted(Table("table7", title, text, header, lines, faint_lines(first_rows)))


def _stacked(line: Line) -> Line:
    """A line of many cells: each number over its interval or its words, the network's title folded."""
    title, *cells = line
    return (textwrap.fill(title, _TITLE_WIDTH), *("\n".join(cell.split(" ", 1)) for cell in cells))


def _credits(networks: Mapping[str, Mapping[Attacked, Row]], columns: list[Attacked]) -> Iterator[Line]:
    """The best control, then what each network has beyond it."""
    by_attack = [[mine[attack] for mine in networks.values() if attack in mine] for attack in columns]
    if not any(map(credit.control, by_attack)):
        return
    yield ("best control", *map(credit.control, by_attack))
    for mine in networks.values():
        cells = [credit.credit(mine.get(attack)) for attack in columns]
        if any(cells):
            yield (f"credit of {next(iter(mine.values()))['title']}", *cells)


def _left_out(controls: Sequence[str]) -> str:
    """The controls that the study lacks ('twin: the study has one seed'), by the reason."""
    by_reason: dict[str, list[str]] = {}
    for each in controls:
        name, _, reason = each.partition(": ")
        by_reason.setdefault(reason, []).append(name)
    said = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    return f" Controls left out: {said}." if said else ""


def _block(row: Row) -> int:
    return _CHOICES.index(row["method"]) + 1 if row["method"] in _CHOICES else 0


LAYOUT = Layout("over_seeds where layout = 'table7'", lay_out)
