"""Tables printed: for a terminal, as GitHub Markdown or as CSV."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import duckdb
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from harness.report.database import query
from harness.report.tables import as_views, laid_out
from harness.report.tables.numbers import exact, short
from harness.report.tables.table import Line, Table, as_table

Format = Literal["rich", "md", "csv"]

SHOWN_ROWS = 200  # of a query's answer in a terminal; the other formats print all
PIPED_WIDTH = 120  # columns of the rich format where the output is no terminal
ANY_WIDTH = 10_000  # a line too long is easier to read than columns squeezed to a letter
_LONGEST_NAME = 45  # characters that the first column may take without a break


def show(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...], format: Format) -> None:
    """Print the tables: the paper's layouts, or, as CSV, the views behind them."""
    made = as_views(connection, which) if format == "csv" else laid_out(connection, which)
    print(render(made, format), end="")


def show_query(connection: duckdb.DuckDBPyConnection, sql: str, format: Format) -> None:
    """Print the answer to a query; a terminal gets its first rows, the other formats all."""
    answer = query(connection, sql)
    if format != "rich":
        print(render([as_table("", answer, exact)], format), end="")
        return
    table = as_table("", answer.slice(0, SHOWN_ROWS), short)
    if len(answer) > SHOWN_ROWS:
        note = f"The first {SHOWN_ROWS} of {len(answer)} rows; --format csv prints all."
        table = replace(table, note=note)
    print(render([table], format, width=ANY_WIDTH), end="")


def render(tables: Iterable[Table], format: Format, width: int | None = None) -> str:
    """The tables as text: for a terminal ``width`` columns wide, as GitHub Markdown, or as CSV.

    Several tables in CSV are blocks with a `# name` line each, an empty line between them.
    """
    tables = list(tables)
    if format == "rich":
        return _rich(tables, width)
    if format == "md":
        return "\n".join(_markdown(table) for table in tables)
    blocks = [_csv(table) for table in tables]
    if len(blocks) > 1:
        blocks = [f"# {table.name}\n{block}" for table, block in zip(tables, blocks, strict=True)]
    return "\n".join(blocks)


def _csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    return text.getvalue()


def _rich(tables: list[Table], width: int | None) -> str:
    terminal, text = Console(), io.StringIO()
    width = width or (terminal.width if terminal.is_terminal else PIPED_WIDTH)
    console = Console(file=text, force_terminal=terminal.is_terminal, width=width)
    for table in tables:
        if table.title:
            console.print(Text(f"\n{table.title}\n", style="bold"))
        console.print(_grid(table))
        if table.note:
            console.print(Text(f"\n{table.note}", style="dim"))
    return text.getvalue()


def _grid(table: Table) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    columns = _columns(table)
    for position, name in enumerate(table.header):
        justify: Literal["left", "right"] = "right" if _are_numbers(columns[position]) else "left"
        # What a line is of stays in one line, unless it is a sentence, which would leave the others no room.
        no_wrap = position == 0 and max(map(len, columns[0]), default=0) <= _LONGEST_NAME
        grid.add_column(Text(name), justify=justify, overflow="fold", no_wrap=no_wrap)
    for position, line in enumerate(zip(*map(_aligned, columns), strict=True)):
        grid.add_row(*map(Text, line), style="dim" if position in table.faint else "")
    return grid


def _columns(table: Table) -> list[Line]:
    return list(zip(*table.rows, strict=True)) or [()] * len(table.header)


def _are_numbers(cells: Line) -> bool:
    return any(cells) and all(re.fullmatch(r"-?[\d.,e-]*", cell) for cell in cells)


def _aligned(cells: Line) -> Line:
    """'9.1 [8.0, 9.9]' below '10.2 [9.4, 11.1]' with the points in one column."""
    numbers = [re.split(r"\s", cell, maxsplit=1)[0] for cell in cells]
    if not any(re.match(r"[+-]?\d+\.\d\s\[", cell) for cell in cells):
        return cells
    width = max(map(len, numbers))
    return tuple(" " * (width - len(number)) + cell for number, cell in zip(numbers, cells, strict=True))


def _markdown(table: Table) -> str:
    marks = tuple("---:" if _are_numbers(cells) else "---" for cells in _columns(table))
    lines = [_markdown_line(line) for line in (table.header, marks, *table.rows)]
    text = "\n".join(lines) + "\n"
    if table.title:
        text = f"### {table.title}\n\n{text}"
    if table.note:
        text += f"\n{table.note}\n"
    return text


def _markdown_line(line: Line) -> str:
    cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in line]
    return f"| {' | '.join(cells)} |"
