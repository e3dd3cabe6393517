"""The paper's tables, laid out and printed: for a terminal, as Markdown or as CSV.

Every number comes from the SQL views (see `views`); here it only gets its place and its words.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import duckdb
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.errors import HarnessError, did_you_mean
from harness.settings import epsilon_text
from harness.views import Row, query

Format = Literal["rich", "md", "csv"]

SHOWN_ROWS = 200  # of a query's answer in a terminal; the other formats print all
PIPED_WIDTH = 120  # columns of the rich format where the output is no terminal
_HOLE = "-"
_LONG = ("table2", "table3", "black_box", "table7", "white_box")
_ATTACKS = {
    "none": "Clean",
    "fgsm": "FGSM",
    "deepfool": "DeepFool",
    "jsma": "JSMA",
    "cw_l2": "C&W (l2)",
    "ddn": "DDN",
    "pgd": "PGD",
}
_BLACK_BOX = {
    "mnist": ("table4", "Table IV"),
    "cifar10": ("table5", "Table V"),
    "tinyimagenet": ("table6", "Table VI"),
}


@dataclass(frozen=True)
class Table:
    """A table ready to be printed; ``note`` says what a reader needs to know of its cells."""

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


# --- the tables -------------------------------------------------------------------------------------


def tables(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...] = ()) -> list[Table]:
    """The tables in the paper's layouts, study by study; ``which`` picks some of them, or any other view by its name.

    Raises HarnessError for an unknown name, and for a table of a data set that no study here has.
    """
    _check_names(connection, which)
    names = {"table3" if name == "effectiveness" else name for name in which}
    studies = query(connection, "from studies").to_pylist()
    rows = {
        view: query(connection, f"from {view}").to_pylist()
        for view in _LAYOUTS
        if not names or names & {view, *_split_of(view)}
    }
    made = []
    for study in studies:
        for view, found in rows.items():
            table = _LAYOUTS[view](study, [row for row in found if row["study"] == study["study"]])
            if not names or names & {view, table.name}:
                several = f", study {study['study']}" if len(studies) > 1 else ""
                made.append(replace(table, title=f"{table.title}, {study['title']}{several}"))
    if not names and (failed := query(connection, "from missing where reason is not null").to_pylist()):
        made.append(_failed(failed))
    for name in sorted(names - {table.name for table in made} - {*_LAYOUTS}):
        if name in _split_of("black_box"):
            raise HarnessError(
                f"no study here has '{name}' (table4: MNIST, table5: CIFAR-10, table6: Tiny ImageNet); see black_box"
            )
        made.append(_as_table(name, query(connection, f"from {name}"), _short))
    return made


def long_tables(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...] = ()) -> list[Table]:
    """The views themselves, one value a column and every digit of it: for other programs to read."""
    _check_names(connection, which)
    return [_as_table(name, query(connection, f"from {name}"), _exact) for name in which or _LONG]


def benchmark(connection: duckdb.DuckDBPyConnection) -> list[Table]:
    """What `harness benchmark` measured, one table a part; columns that say nothing there are left out."""
    rows = query(connection, "from speed").to_pylist()
    made = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        shown = [
            (title, name, digits)
            for title, name, digits in _SPEED
            if any(row[name] is not None for row in own)
        ]
        lines: list[tuple[str, ...]] = []
        for case in dict.fromkeys(row["case"] for row in own):
            lines.append((case, *[""] * len(shown)))
            for row in (row for row in own if row["case"] == case):
                values = (
                    _HOLE if row[name] is None else _significant(row[name], digits)
                    for _, name, digits in shown
                )
                lines.append(
                    (f"  {row['contender']}" + (" (not measured)" if row["seconds"] is None else ""), *values)
                )
        place = dict.fromkeys(
            f"{row['device']}, {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in own
        )
        turns = max(row["turns"] for row in own)
        note = f"Medians over {turns} turns, scaled to the whole case; x harness: its time over the harness's, turn by turn."
        note = note if turns else "; ".join(dict.fromkeys(row["note"] for row in own))
        header = ("case", *(title for title, _, _ in shown))
        made.append(Table("benchmark", f"Benchmark: {part}, {'; '.join(place)}", note, header, lines))
    return made


_SPEED = (
    ("per s", "per_s", 3), ("seconds", "seconds", 3), ("spread %", "spread", 2), ("x harness", "times_harness", 3),
    ("fooled %", "fooled", 4), ("l2", "l2", 4), ("agree %", "agreement", 5), ("candidates", "candidates", 3),
    ("overhead s", "overhead_s", 2),
)  # fmt: skip


def duration(seconds: float) -> str:
    """'12 s', '3.4 min', '5.6 h', '2.1 days'."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(count: int) -> str:
    """'12 kB', '3.4 MB', '5.6 GB', in powers of 1000."""
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _significant(value: float, digits: int) -> str:
    """12,300,000 or 0.0123: so many digits that mean something."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def _check_names(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...]) -> None:
    known = query(connection, "select table_name from information_schema.tables")
    names = known["table_name"].to_pylist()
    for name in which:
        if name not in names:
            raise HarnessError(f"no table '{name}'{did_you_mean(name, names)}")


def _split_of(view: str) -> set[str]:
    """Tables IV to VI are one view, split by data set."""
    return {name for name, _ in _BLACK_BOX.values()} if view == "black_box" else set()


def _as_table(name: str, content: pa.Table, text: Callable[[Any], str]) -> Table:
    columns = [[text(value) for value in column.to_pylist()] for column in content.columns]
    return Table(name, name, "", tuple(content.column_names), list(zip(*columns, strict=True)))


def _exact(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _exact(value)


# --- the paper's layouts ----------------------------------------------------------------------------


def _table2(study: Row, rows: list[Row]) -> Table:
    def three(row: Row, kind: str) -> str:
        values = [row[f"{kind}_{part}"] for part in ("min", "mean", "max")]
        digits = (
            3 if all(value is not None and round(value, 3) == value for value in values) else 4
        )  # the paper prints three
        return _HOLE if None in values else " / ".join(f"{value:.{digits}f}" for value in values)

    by = {(row["neighbours"], row["k"]): row for row in rows}
    ks = dict.fromkeys(row["k"] for row in rows)
    header: tuple[str, ...] = ("k", "other class", "any class")
    lines: list[tuple[str, ...]] = [
        (f"{k:g}", three(by["other_class", k], "sigma"), three(by["any_class", k], "sigma")) for k in ks
    ]
    if study["paper"]:
        header = (*header, "paper")
        lines = [(*line, three(by["other_class", k], "paper")) for line, k in zip(lines, ks, strict=True)]
    note = "min / mean / max over the training images, in [0, 1], by the nearest neighbour of another class (III-A) and of any class."
    return _table("table2", "Table II: sigma", note, header, lines)


def _table3(study: Row, rows: list[Row]) -> Table:
    header = (
        "attack",
        "images",
        "fooled %",
        "mean l1",
        "within mean %",
        "within own %",
        "effective mean %",
        "effective own %",
    )
    parts = ("fooled", "mean_l1", "within_mean_sigma", "within_own_sigma", "effective_mean", "effective_own")
    lines = [
        (_attack(row), str(row["images"] or _HOLE))
        + tuple(
            _HOLE if row[part] is None else f"{row[part]:.4f}" if part == "mean_l1" else f"{row[part]:.1f}"
            for part in parts
        )
        for row in rows
    ]
    means = [row["mean_sigma"] for row in rows if row["mean_sigma"] is not None]
    note = f"within: mean l1 change at most sigma (k = {study['effectiveness_k']:g}, {study['neighbours']}): "
    note += f"the training images' mean{f', {means[0]:.4f},' if means else ''} or the image's own. effective: within, and fooled."
    note += " The paper's numbers cannot be read in its text." if study["paper"] else ""
    return _table("table3", "Table III: effectiveness of the attacks", note, header, lines)


def _black_box(study: Row, rows: list[Row]) -> Table:
    by = {
        (row["attack"], row["epsilon"], row["k"], row["n"]): row
        for row in rows
        if row["training"] in ("base", "vib")
    }
    ks, ns = (
        list(dict.fromkeys(row[part] for row in by.values() if row["training"] == "vib"))
        for part in ("k", "n")
    )
    lines = []
    for attack, epsilon in dict.fromkeys((row["attack"], row["epsilon"]) for row in by.values()):
        original = by[attack, epsilon, None, None]
        for n in ns:  # the paper's layout: the original network once, beside the first n
            first = (_attack(original), str(n), _accuracy(original)) if n == ns[0] else ("", str(n), "")
            lines.append((*first, *(_accuracy(by.get((attack, epsilon, k, n))) for k in ks)))
    name, title = _BLACK_BOX.get(study["paper"], ("black_box", "Black box (layout of Tables IV-VI)"))
    title += ": black box" if study["paper"] else ""
    return _table(
        name,
        title,
        _accuracy_note(by.values()),
        ("attack", "n", "original", *(f"k={k:g}" for k in ks)),
        lines,
    )


def _table7(study: Row, rows: list[Row]) -> Table:
    printed = any(row["paper"] is not None for row in rows)
    # Where the paper has a table, its testing attacks: all radii would not fit on a line.
    compared = {
        (row["attack"], row["epsilon"])
        for row in rows
        if row["paper"] is not None or row["attack"] == "none" or not printed
    }
    attacks = {key: _attack(row) for row in rows if (key := (row["attack"], row["epsilon"])) in compared}
    trainings: dict[str, dict[Any, Row]] = {}
    for row in rows:
        trainings.setdefault(_training(row), {})[row["attack"], row["epsilon"]] = row
    lines = [(label, *(_accuracy(by.get(key)) for key in attacks)) for label, by in trainings.items()]
    shown = [by[key] for by in trainings.values() for key in attacks if key in by]
    note = (
        _accuracy_note(shown)
        + " Defended: the network of highest clean accuracy; and, as in the paper, the best one for each attack."
    )
    title = (
        "Table VII: adversarial training"
        if study["paper"] == "cifar10"
        else "Adversarial training (layout of Table VII)"
    )
    return _table("table7", title, note, ("training", *attacks.values()), lines)


def _white_box(study: Row, rows: list[Row]) -> Table:
    divisors = sorted({row["divisor"] for row in rows})
    networks: dict[tuple[str, str], dict[float, Row]] = {}
    for row in rows:
        networks.setdefault((_training(row), _epsilon(row["epsilon"])), {})[row["divisor"]] = row
    lines = [
        (*names, *(_accuracy(by.get(divisor)) for divisor in divisors)) for names, by in networks.items()
    ]
    note = _accuracy_note(rows) + " Columns: PGD's step size."
    note += " The paper's numbers cannot be read in its text." if study["paper"] else ""
    return _table(
        "white_box",
        "White box (V-E): PGD",
        note,
        ("network", "epsilon", *(f"eps/{divisor:g}" for divisor in divisors)),
        lines,
    )


def _failed(rows: list[Row]) -> Table:
    """What could not be made, root causes alone."""
    causes = [row for row in rows if not row["waits"]]
    waiting = len(rows) - len(causes)
    note = f"{waiting} more wait for them: `harness tables missing`. " if waiting else ""
    lines: list[tuple[str, ...]] = [(row["study"], row["title"], row["reason"]) for row in causes]
    return Table("failed", "Failed", note + "The next run tries them again.", ("study", "what", "why"), lines)


_LAYOUTS: dict[str, Callable[[Row, list[Row]], Table]] = {
    "table2": _table2, "table3": _table3, "black_box": _black_box, "table7": _table7, "white_box": _white_box,
}  # fmt: skip


def _table(name: str, title: str, note: str, header: tuple[str, ...], lines: list[tuple[str, ...]]) -> Table:
    holes = sum(cell == _HOLE for line in lines for cell in line)
    return Table(
        name,
        title,
        note + (f" {holes} cell{'s' * (holes > 1)} missing ({_HOLE})." if holes else ""),
        header,
        lines,
    )


def _accuracy(row: Row | None) -> str:
    if row is None or row["accuracy"] is None:
        return _HOLE
    text = f"{row['accuracy']:.1f} ±{(row['high'] - row['low']) / 2:.1f}"
    return (
        text
        if row.get("paper") is None or row["paper"] == "unreadable"
        else f"{text} ({row['paper']:.2f}){'*' * row['differs']}"
    )


def _accuracy_note(rows: Iterable[Row]) -> str:
    rows = list(rows)
    counts = sorted({row["images"] for row in rows if row["images"]})
    note = "Accuracy in per cent ± half its 95 % Wilson interval"
    note += f", {counts[0]}{f' to {counts[-1]}' if len(counts) > 1 else ''} images" if counts else ""
    compared = [row["differs"] for row in rows if row.get("differs") is not None]
    if compared:
        note += f" (the paper's; * where the two differ at 95 %: {sum(compared)} of {len(compared)}, chance alone gives 1 in 20)"
    return note + "."


def _attack(row: Row) -> str:
    return f"{_ATTACKS.get(row['attack'], row['attack'])} {_epsilon(row['epsilon'])}".strip()


def _training(row: Row) -> str:
    if row["training"] == "adversarial":
        return "AT with " + _attack({"attack": row["training_attack"], "epsilon": row["training_epsilon"]})
    if row["training"] == "vib":
        return f"defended k={row['k']:g} n={row['n']}"
    return {"base": "original", "vib_best": "defended, best for each"}[row["training"]]


def _epsilon(epsilon: float | None) -> str:
    return "" if epsilon is None else epsilon_text(epsilon)


# --- printing ---------------------------------------------------------------------------------------


def render(tables: Iterable[Table], format: Format, width: int | None = None) -> str:
    """The tables as text: for a terminal ``width`` columns wide, as GitHub Markdown, or as CSV.

    Several tables in CSV are blocks with a `# name` line each, an empty line between them.
    """
    tables = list(tables)
    if format == "rich":
        return _rich(tables, width)
    if format == "md":
        return "\n".join(_markdown(table) for table in tables)
    blocks = []
    for table in tables:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
        blocks.append((f"# {table.name}\n" if len(tables) > 1 else "") + text.getvalue())
    return "\n".join(blocks)


def show(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...], format: Format) -> None:
    """Print the tables: the paper's layouts, or, as CSV, the views behind them."""
    print(render((long_tables if format == "csv" else tables)(connection, which), format), end="")


def show_benchmark(connection: duckdb.DuckDBPyConnection, format: Format) -> None:
    """Print the benchmark's tables, or, as CSV, the view behind them."""
    print(
        render(
            [_as_table("speed", query(connection, "from speed"), _exact)]
            if format == "csv"
            else benchmark(connection),
            format,
        ),
        end="",
    )


def show_query(connection: duckdb.DuckDBPyConnection, sql: str, format: Format) -> None:
    """Print the answer to a query; a terminal gets its first rows, the other formats all."""
    answer = query(connection, sql)
    if format != "rich":
        print(render([_as_table("", answer, _exact)], format), end="")
        return
    note = (
        f"The first {SHOWN_ROWS} of {len(answer)} rows; --format csv prints all."
        if len(answer) > SHOWN_ROWS
        else ""
    )
    shown = replace(_as_table("", answer.slice(0, SHOWN_ROWS), _short), note=note)
    print(
        render([shown], format, width=10_000), end=""
    )  # a line too long is easier to read than columns squeezed to a letter


def _rich(tables: list[Table], width: int | None) -> str:
    terminal, text = Console(), io.StringIO()
    width = width or (terminal.width if terminal.is_terminal else PIPED_WIDTH)
    console = Console(file=text, force_terminal=terminal.is_terminal, width=width)
    for table in tables:
        if table.title:
            console.print(Text(f"\n{table.title}\n", style="bold"))
        grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        columns = []
        for position, (name, cells) in enumerate(zip(table.header, _columns(table), strict=True)):
            grid.add_column(
                Text(name),
                justify="right" if _numbers(cells) else "left",
                overflow="fold",
                no_wrap=position == 0,
            )
            columns.append(_aligned(cells))
        for line in zip(*columns, strict=True):
            grid.add_row(*(Text(cell) for cell in line))
        console.print(grid)
        if table.note:
            console.print(Text(f"\n{table.note}", style="dim"))
    return text.getvalue()


def _columns(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*table.rows, strict=True)) or [()] * len(table.header)


def _numbers(cells: tuple[str, ...]) -> bool:
    return any(cells) and all(re.fullmatch(r"-?[\d.,e-]*", cell) for cell in cells)


def _aligned(cells: tuple[str, ...]) -> tuple[str, ...]:
    """'9.1 ±0.5' below '10.2 ±0.6' with the points in one column."""
    if not any("±" in cell for cell in cells):
        return cells
    width = max(len(cell.partition(" ")[0]) for cell in cells)
    return tuple(" " * (width - len(cell.partition(" ")[0])) + cell for cell in cells)


def _markdown(table: Table) -> str:
    lines = [
        table.header,
        tuple("---:" if _numbers(cells) else "---" for cells in _columns(table)),
        *table.rows,
    ]
    body = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )
    return (
        (f"### {table.title}\n\n" if table.title else "")
        + body
        + "\n"
        + (f"\n{table.note}\n" if table.note else "")
    )
