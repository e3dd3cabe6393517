"""The tables, each in a file of its own: the paper's, and what they leave out. One line here for each.

A file lays out the rows of an SQL view: every number comes from there, here it only gets its place and its
words. The name of a table in `TABLES` is that of a view, which holds the same at full length.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import duckdb

from harness.errors import HarnessError, did_you_mean
from harness.report.database import query
from harness.report.recorded import Row
from harness.report.tables import (
    adversarial_training,
    audit,
    beside_paper,
    black_box,
    bound,
    bound_test,
    certified,
    check_results,
    checks,
    complexity,
    cost,
    credit,
    effectiveness,
    failed,
    fragility,
    pairs,
    ranking,
    rekeyed,
    scorecard,
    seeds,
    speed,
    versions,
    white_box,
)
from harness.report.tables.numbers import exact, short
from harness.report.tables.table import Layout, Table, as_table

TABLES = {
    "table2": bound.LAYOUT,
    "table3": effectiveness.LAYOUT,
    "fragility": fragility.LAYOUT,
    "black_box": black_box.LAYOUT,
    "table7": adversarial_training.LAYOUT,
    "white_box": white_box.LAYOUT,
    "ranking": ranking.LAYOUT,
    "checks": checks.LAYOUT,
    "check_results": check_results.LAYOUT,
    "bound_test": bound_test.LAYOUT,
    "certified_accuracy": certified.LAYOUT,
    "sandwich": certified.SANDWICH,
    "credit": credit.LAYOUT,
    "pairs": pairs.LAYOUT,
    "seeds": seeds.LAYOUT,
    "failed": failed.LAYOUT,
    "rekeyed": rekeyed.LAYOUT,
    "scorecard": scorecard.LAYOUT,
    "beside_paper": beside_paper.LAYOUT,
    "sigma_audit": audit.LAYOUT,
    "suspected_labels": audit.SUSPECTED,
    "cost": cost.LAYOUT,
    "complexity": complexity.LAYOUT,
    "complexity_claim": complexity.GROWTH,
    "versions": versions.LAYOUT,
    "speed": speed.LAYOUT,
}


def laid_out(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...] = ()) -> list[Table]:
    """The tables in the paper's layouts, study by study; ``which`` picks some, or any other view by its name.

    Raises HarnessError for an unknown name, and for a table of a data set that no study here has.
    """
    _check_names(connection, which)
    layouts = {name: layout for name, layout in TABLES.items() if _is_picked(name, layout, which)}
    made = [*_of_studies(connection, layouts, which), *_of_no_study(connection, layouts)]
    shown = {name for layout, table in made for name in (table.name, *_names(layout))}
    tables = [table for _, table in made]
    for name in sorted(set(which) - shown):
        if name in black_box.LAYOUT.parts:
            parts = "table4: MNIST, table5: CIFAR-10, table6: Tiny ImageNet"
            raise HarnessError(f"no study here has '{name}' ({parts}); see black_box")
        tables.append(as_table(name, query(connection, f'from "{name}"'), short))
    return tables


def as_views(connection: duckdb.DuckDBPyConnection, which: tuple[str, ...] = ()) -> list[Table]:
    """The views themselves, one value a column and every digit of it: for other programs to read."""
    _check_names(connection, which)
    names = which or tuple(name for name, layout in TABLES.items() if layout.in_csv)
    return [as_table(name, query(connection, f'from "{name}"'), exact) for name in names]


def _of_studies(
    connection: duckdb.DuckDBPyConnection, layouts: Mapping[str, Layout], which: Iterable[str]
) -> Iterator[tuple[str, Table]]:
    """Name of the layout and table, study by study; of a layout with parts, those that were picked."""
    studies = query(connection, "from studies").to_pylist()
    rows = {name: _rows(connection, layout) for name, layout in layouts.items() if layout.of_studies}
    for study in studies:
        several = f", study {study['study']}" if len(studies) > 1 else ""
        for name in rows:
            if layouts[name].of_several_seeds and len(study["seeds"]) == 1 and not which:
                continue
            own = [row for row in rows[name] if row["study"] == study["study"]]
            for table in layouts[name].lay_out(study, own):
                if not which or {table.name, *_names(name)}.intersection(which):
                    yield name, replace(table, title=f"{table.title}, {study['title']}{several}")


def _of_no_study(
    connection: duckdb.DuckDBPyConnection, layouts: Mapping[str, Layout]
) -> Iterator[tuple[str, Table]]:
    for name, layout in layouts.items():
        if not layout.of_studies:
            for table in layout.lay_out({}, _rows(connection, layout)):
                yield name, table


def _rows(connection: duckdb.DuckDBPyConnection, layout: Layout) -> list[Row]:
    rows: list[Row] = query(connection, f"from {layout.source}").to_pylist()
    return rows


def _is_picked(name: str, layout: Layout, which: Iterable[str]) -> bool:
    names = _names(name) | {*layout.parts}
    return bool(names.intersection(which)) if which else layout.printed


def _names(layout: str) -> set[str]:
    """The names that stand for all tables of a layout."""
    return {layout, *TABLES[layout].other_names}


def _check_names(connection: duckdb.DuckDBPyConnection, which: Iterable[str]) -> None:
    views = query(connection, "select table_name from information_schema.tables")["table_name"].to_pylist()
    known = {*views, *TABLES}
    for name in which:
        if name not in known:
            raise HarnessError(f"no table '{name}'{did_you_mean(name, known)}")
