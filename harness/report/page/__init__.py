"""One file that shows studies: their tables and figures, to be read anywhere and by anybody."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import duckdb
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report.database import query
from harness.report.figures import drawn
from harness.report.figures.drawing import Drawing, svg
from harness.report.page import heat_map
from harness.report.page.gallery import BYTES, Galleries, galleries
from harness.report.page.sections import ACROSS, SECTIONS, Section
from harness.report.passport import bound_table, matrix, radii_tables
from harness.report.recorded import Row
from harness.report.tables import complexity, laid_out
from harness.report.tables.table import Table
from harness.results.store import Store


@dataclass(frozen=True)
class ShownTable:
    """A table on the page; ``numeric``: which columns hold numbers, and stand to the right."""

    id: str
    table: Table
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class ShownFigure:
    """A figure on the page, drawn."""

    drawing: Drawing
    svg: Markup


@dataclass(frozen=True)
class ShownSection:
    """A section with what there is to show of it."""

    section: Section
    tables: list[ShownTable]
    figures: list[ShownFigure]
    heat_map: heat_map.HeatMap | None
    gallery: Galleries | None = None


@dataclass(frozen=True)
class Shown:
    """A study on the page: its row of `studies`, what is said first, its sections, its settings as YAML."""

    study: Row
    sentences: list[str]
    sections: list[ShownSection]
    settings: str


def shown(
    connection: duckdb.DuckDBPyConnection,
    settings: Row,
    store: Store | None = None,
    gallery_bytes: int = BYTES,
) -> Shown:
    """The one study that ``connection`` holds; ``settings``, which it was made with.

    With the ``store`` of its results there is a gallery, of so many bytes at most.
    """
    (study,) = query(connection, "from studies").to_pylist()
    sections = [_section(connection, study, section) for section in SECTIONS if not section.has_gallery]
    if store is not None:
        place = [section.has_gallery for section in SECTIONS].index(True)
        pictures = galleries(connection, store, study, gallery_bytes)
        sections.insert(place, ShownSection(SECTIONS[place], [], [], None, pictures))
    return Shown(
        study,
        _sentences(connection),
        [each for each in sections if each.tables or each.figures or each.heat_map or each.gallery],
        yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=100),
    )


def across(connection: duckdb.DuckDBPyConnection) -> list[ShownSection]:
    """What no study that ``connection`` holds says by itself: it goes to the end of the page."""
    rows = query(connection, f"from {complexity.GROWTH.source}").to_pylist()
    tables = [_table(f"{ACROSS.anchor}-growth", table) for table in complexity.GROWTH.lay_out({}, rows)]
    figures = [drawing for name in ACROSS.figures for drawing in drawn(connection, {}, name)]
    if not tables and not figures:
        return []
    return [ShownSection(ACROSS, tables, [ShownFigure(each, Markup(svg(each))) for each in figures], None)]


def page(studies: Sequence[Shown], version: str) -> str:
    """The HTML of some studies: the same bytes from the same results and versions."""
    own = resources.files("harness.report.page")
    environment = Environment(
        loader=PackageLoader("harness.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html").render(
        studies=studies,
        version=version,
        bound_table=bound_table,
        matrix=matrix,
        radii_tables=radii_tables,
        style=Markup((own / "page.css").read_text()),
        script=Markup((own / "page.js").read_text()),
    )


def _section(connection: duckdb.DuckDBPyConnection, study: Row, section: Section) -> ShownSection:
    tables = laid_out(connection, section.tables) if section.tables else []
    anchor = f"{study['study']}-{section.anchor}"
    shown = [_table(f"{anchor}-{place}", table) for place, table in enumerate(tables) if table.rows]
    figures = [drawing for name in section.figures for drawing in drawn(connection, study, name)]
    heat = None
    if section.has_heat_map:
        heat = heat_map.heat_map(query(connection, f"from {heat_map.SOURCE} order by position").to_pylist())
    return ShownSection(section, shown, [ShownFigure(each, Markup(svg(each))) for each in figures], heat)


def _table(name: str, table: Table) -> ShownTable:
    columns = list(zip(*table.rows, strict=True))
    return ShownTable(name, table, tuple(map(_are_numbers, columns)))


def _are_numbers(cells: tuple[str, ...]) -> bool:
    return any(cells) and all(re.match(r"([<>]?=? ?[+-]?[\d.]|-?$)", cell) for cell in cells)


def _sentences(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What is to be said first: of each threat model who is first, and of each network that fails, why."""
    rows = query(
        connection, "from ranking join printed_threat_models using (study, norm, epsilon) order by norm, rank"
    ).to_pylist()
    said = []
    for norm in dict.fromkeys(row["norm"] for row in rows):
        mine = [row for row in rows if row["norm"] == norm]
        said += _of_threat_model(mine)
    said += [f"{row['title']} can't be ranked: {row['reason']}." for row in _failing(connection)]
    return said


def _of_threat_model(rows: list[Row]) -> list[str]:
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return []
    first = ranked[0]
    where = f"{first['norm']} {first['radius']}"
    tied = [row["title"] for row in ranked[1:] if row["first"] == "tied"]
    words = f"At {where} {first['title']} is first: {first['accuracy']:.1f} % robust"
    if first["low"] is not None:
        words += f" [{first['low']:.1f}, {first['high']:.1f}]"
    words += f", tied with {', '.join(tied)}." if tied else "."
    better: dict[Any, list[str]] = {}
    for row in ranked:
        if row["role"] in ("defense", "baseline") and row["better"]:
            better.setdefault(row["better"], []).append(row["title"])
    verdicts = {"yes": "Better than the best control", "no": "Worse than the best control"}
    verdicts["not shown"] = "Not shown to be better or worse than the best control"
    return [words, *(f"{verdicts[verdict]}: {', '.join(titles)}." for verdict, titles in better.items())]


def _failing(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    rows: list[Row] = query(connection, "from verdicts where verdict = 'fail' order by position").to_pylist()
    return rows
