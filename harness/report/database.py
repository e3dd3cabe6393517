"""The results as a data base: views (views/*.sql) over the Parquet files, open to any query that only reads.

Judging is a pure function of what was measured, so any table can be made again at any time, from any
copy of the results folder, without a network, an image or an accelerator.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

import duckdb
import pyarrow as pa

from harness.errors import HarnessError, did_you_mean
from harness.report import recorded
from harness.report.recorded import Row
from harness.results.records import SCHEMAS, TableSchema
from harness.results.store import Store

_SQL_TYPES = {
    pa.string(): "varchar",
    pa.float64(): "double",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.binary(): "blob",
    pa.list_(pa.int64()): "bigint[]",
}
# The files of views, each of which stands on those before it.
CHAPTERS = (
    *("arithmetic", "bound", "audit", "attacks", "fragility", "accuracies", "choices", "robust", "verdicts"),
    *("curves", "statistics", "comparison", "lines", "certified", "ranking", "cells", "images", "speed"),
    *("cost", "versions", "complexity", "contests", "scorecard", "grid"),
)
# Views that most others stand on, each on those before it: computed once, see `_settle`.
SETTLED = (
    *("accuracies", "smallest_change", "coverage", "robust", "bound_test", "credit", "verdicts"),
    *("over_seeds", "credit_over_seeds"),
)
_READING = "select, from, with, describe, summarize, show, pivot ... on x in (...)"


def connect(store: Store, study: str | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory data base with the views of views/*.sql over the files that the studies (or one) name,
    those of SETTLED computed.

    It reads these files and nothing else, and no setting of it can be changed any more. To be closed when it
    has answered (`with connect(store) as connection`): its threads then end before the interpreter does.
    Raises HarnessError for a folder without results, an unknown study, a record of another version, or a file
    that can't be read.
    """
    store.check_version()
    records = _records(store, study)
    files = store.files()
    failures = store.failures()
    studies = [recorded.study_row(name, record) for name, record in records.items()]
    planned = [row for name, record in records.items() for row in recorded.planned_rows(name, record)]
    networks = [row for name, record in records.items() for row in recorded.network_rows(name, record)]
    rekeyed = [row for name, record in records.items() for row in recorded.rekeyed_rows(name, record)]
    code = [row for name, record in records.items() for row in recorded.code_rows(name, record)]
    cells = recorded.cells_of_no_study(files)
    for name, record in records.items():
        cells += recorded.cell_rows(name, record, files, failures)
    done = [Path(cell["path"]) for cell in cells if cell["done"]]
    # DuckDB reads files many times over: those of an object store are copied, for the next command too.
    root = store.folder.copied({path: files[path] for path in done}).resolve()
    connection = duckdb.connect()
    try:
        _create(connection, "studies", recorded.STUDIES, studies)
        _create(connection, "cells", recorded.CELLS, cells)
        _create(connection, "planned", recorded.PLANNED, planned)
        _create(connection, "networks", recorded.NETWORKS, networks)
        _create(connection, "rekeyed", recorded.REKEYED, rekeyed)
        _create(connection, "code", recorded.CODE, code)
        readable = _create_tables(connection, root, cells)
        _create_views(connection)
        _lock(connection, readable)
    except duckdb.Error as error:
        connection.close()
        raise HarnessError(f"the results in '{store.folder}' cannot be read: {error}") from error
    return connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer to one reading statement; HarnessError for any other, and for DuckDB's errors."""
    try:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise HarnessError(f"expected one statement that reads: {_READING}")
        connection.execute("begin transaction read only")  # `with x as (insert ...)` is a select, too
        try:
            return connection.sql(statements[0]).to_arrow_table()
        finally:
            connection.execute("rollback")
    except duckdb.Error as error:
        raise HarnessError(str(error)) from error


def _records(store: Store, study: str | None) -> Mapping[str, Row]:
    """Name -> record of the study, or of all."""
    records = store.studies()
    if study is None:
        return records
    if study not in records:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, records)}")
    return {study: records[study]}


def _create(
    connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Iterable[Row]
) -> None:
    """A table of these rows, columns name -> SQL type; what a row lacks is null.

    The values are handed over as parameters and copied: DuckDB would read an Arrow table on Arrow's threads,
    and those must hold nothing of Python's when a command ends.
    """
    rows = list(rows)
    lists = [f'unnest(?::{kind}[]) as "{column}"' for column, kind in columns.items()]
    values = [[row.get(column) for row in rows] for column in columns]
    connection.execute(f'create table "{name}" as select {", ".join(lists)}', values)


def _create_tables(connection: duckdb.DuckDBPyConnection, root: Path, cells: Iterable[Row]) -> list[str]:
    """A view of every table's Parquet files; returns the names of all files that may be read."""
    files: dict[str, set[str]] = {name: set() for name in SCHEMAS}
    for cell in cells:
        if cell["done"]:
            files[cell["table"]].add(str(root / cell["path"]))
    readable = []
    for name, table in SCHEMAS.items():
        if files[name]:
            readable += _create_table(connection, table, sorted(files[name]))
        else:
            _create_empty_table(connection, table)
    _create_facts(connection, [name for name, table in SCHEMAS.items() if files[name] and table.of_studies])
    return readable


def _create_facts(connection: duckdb.DuckDBPyConnection, tables: Iterable[str]) -> None:
    """A view of what the files of these tables say of themselves beside their rows, as bytes."""
    parts = [f"select key, value from parquet_kv_metadata(getvariable('{name}_files'))" for name in tables]
    nothing = "select ''::blob as key, ''::blob as value where false"
    connection.execute(f"create view stored_facts as {' union all '.join([nothing, *parts])}")


def _create_table(connection: duckdb.DuckDBPyConnection, table: TableSchema, files: list[str]) -> list[str]:
    """The view of one table, study in front where it has one; returns the names that need permission."""
    # A folder may be called 'run[1]', and DuckDB would glob.
    patterns = [re.sub(r"([*?\[])", r"[\1]", file) for file in files]
    connection.execute(f"set variable {table.name}_files = $1", [patterns])
    columns = [
        *(f"cells.{name}" for name in _from_cells(table)),
        *(f'file."{name}"' for name in table.schema.names),
    ]
    connection.execute(
        f'create view "{table.name}" as select {", ".join(columns)} '
        f"from read_parquet(getvariable('{table.name}_files'), hive_partitioning = false) file "
        "join cells on cells.key = file.cell"
    )
    return [*files, *patterns]


def _create_empty_table(connection: duckdb.DuckDBPyConnection, table: TableSchema) -> None:
    columns = dict.fromkeys(_from_cells(table), "varchar")
    columns |= {field.name: _SQL_TYPES[field.type] for field in table.schema}
    _create(connection, table.name, columns, [])


def _from_cells(table: TableSchema) -> tuple[str, ...]:
    """The columns that the rows of a table get from the cell that they belong to."""
    return (*(("study",) if table.of_studies else ()), *table.partition)


def _create_views(connection: duckdb.DuckDBPyConnection) -> None:
    package = Path(str(resources.files("harness.report")))
    for path in sorted((package / "paper").glob("*.csv")):
        connection.execute(f"create table paper_{path.stem} as from read_csv($1)", [str(path)])
    whole = True
    for chapter in CHAPTERS:
        connection.execute((package / "views" / f"{chapter}.sql").read_text())
        whole = whole and _settle(connection)


def _settle(connection: duckdb.DuckDBPyConnection) -> bool:
    """Make tables of the views among SETTLED, of the same rows; whether that could be done.

    A view is computed anew, from the files, each time that another names it, and understood anew with all
    that it stands on: with tables below them even one question to the upper views is answered sooner. One
    that a damaged file is below stays a view: who asks what stands on it is told.
    """
    views = connection.execute("select view_name from duckdb_views() where not internal").fetchall()
    for name in SETTLED:
        if (name,) in views:
            try:
                connection.execute(f"create table settled as from {name}")
            except duckdb.Error:
                return False
            connection.execute(f"drop view {name}")
            connection.execute(f"alter table settled rename to {name}")
    return True


def _lock(connection: duckdb.DuckDBPyConnection, readable: Iterable[str]) -> None:
    """From now on queries may read these files alone. (That permits writing, too, which `query` refuses.)"""
    allowed = ", ".join(_quoted(file) for file in dict.fromkeys(readable))
    connection.execute(f"set allowed_paths = [{allowed}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
