"""The results as a data base: SQL views (views.sql) over the Parquet files, open to any query that only reads.

Judging is a pure function of what was measured, so any table can be made again at any time, from any
copy of the results folder, without a network, an image or an accelerator.
"""

import re
from collections.abc import Container, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from harness import spec
from harness.errors import HarnessError, did_you_mean
from harness.plan import plan, white_box
from harness.records import TABLES
from harness.store import Store

Row = Mapping[str, Any]

_TEXT, _FLOAT, _INT = pa.string(), pa.float64(), pa.int32()
_PARTITIONS = tuple(dict.fromkeys(name for table in TABLES.values() for name in table.partition))
_STUDIES = pa.schema(
    {"study": _TEXT, "dataset": _TEXT, "title": _TEXT, "paper": _TEXT, "seed": pa.int64(), "neighbours": _TEXT,
     "effectiveness_k": _FLOAT, "protocol": _TEXT, "architecture": _TEXT}
)  # fmt: skip
_CELLS = pa.schema(
    {"study": _TEXT, "table": _TEXT, "key": _TEXT, "path": _TEXT, "done": pa.bool_()}
    | {"title": _TEXT, "reason": _TEXT, "waits": pa.bool_()}
    | dict.fromkeys(_PARTITIONS, _TEXT)
)  # fmt: skip
_PLANNED = pa.schema(
    {"study": _TEXT, "position": _INT, "access": _TEXT, "training": _TEXT, "k": _FLOAT, "n": _INT, "training_attack": _TEXT,
     "training_epsilon": _FLOAT, "attack": _TEXT, "epsilon": _FLOAT, "step_size": _FLOAT}
)  # fmt: skip


def connect(store: Store, study: str | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory data base with the views of views.sql over the files that the studies (or one of them) name.

    It reads these files and nothing else, and no setting of it can be changed any more. Raises
    HarnessError for a folder without results, an unknown study, or a file that can't be read.
    """
    store.check_version()
    records = store.studies()
    if study is not None and study not in records:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, records)}")
    chosen = {name: record for name, record in records.items() if study in (None, name)}
    studies = {name: _study(name, record) for name, record in chosen.items()}
    present = store.files()
    cells = [
        _cell_row(present, name, cell)
        for name, record in chosen.items()
        for cell in {c["key"]: c for c in record["cells"]}.values()
    ]
    cells += [_cell_row(present, None, cell) for cell in _cells_of_no_study(present)]
    # DuckDB reads local files many times over: those of an object store are copied, once and for the next command too.
    root = store.folder.copied(
        {path: present[path] for cell in cells if (path := Path(cell["path"])) in present}
    ).resolve()
    failures = store.failures()
    cells = [
        {**cell, **{name: failures.get(cell["path"], {}).get(name) for name in ("title", "reason", "waits")}}
        for cell in cells
    ]
    connection = duckdb.connect()
    try:
        _create(connection, "studies", [_study_row(name, study) for name, study in studies.items()], _STUDIES)
        _create(connection, "cells", cells, _CELLS)
        _create(
            connection,
            "planned",
            [row for name, study in studies.items() for row in _planned(name, study)],
            _PLANNED,
        )
        allowed: list[str] = []
        for table in TABLES:
            files = {str(root / cell["path"]) for cell in cells if cell["table"] == table and cell["done"]}
            allowed += _create_base_view(connection, table, sorted(files))
        package = Path(str(resources.files("harness")))
        for path in sorted((package / "paper").glob("*.csv")):
            connection.execute(f"create table paper_{path.stem} as from read_csv($1)", [str(path)])
        connection.execute((package / "views.sql").read_text())
        # A query may read these files; queries are checked as well, for the permission is to write, too.
        connection.execute("set allowed_paths = [" + ", ".join(_quoted(file) for file in allowed) + "]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise HarnessError(f"the results in '{store.folder}' cannot be read: {error}") from error
    return connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer to one reading statement; HarnessError for any other, and for DuckDB's errors."""
    try:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise HarnessError(
                "expected one statement that reads: select, from, with, describe, summarize, show, pivot ... on x in (...)"
            )
        connection.execute("begin transaction read only")  # `with x as (insert ...)` is a select, too
        try:
            return connection.sql(statements[0]).to_arrow_table()
        finally:
            connection.execute("rollback")
    except duckdb.Error as error:
        raise HarnessError(str(error)) from error


def _study(name: str, record: Row) -> spec.Study:
    try:
        return spec.build(record["study"])
    except HarnessError as error:
        raise HarnessError(
            f"study '{name}' was recorded with settings that this harness does not know; run it again:\n{error}"
        ) from error


def _study_row(name: str, study: spec.Study) -> Row:
    dataset = study.dataset
    return {
        "study": name, "dataset": dataset.label, "title": dataset.title or dataset.label, "paper": dataset.paper_dataset,
        "seed": study.seed, "neighbours": study.neighbours, "effectiveness_k": study.effectiveness_k, "protocol": study.protocol,
        "architecture": study.network.architecture,
    }  # fmt: skip


def _cells_of_no_study(present: Iterable[Path]) -> Iterable[Row]:
    """The files of tables that belong to no study: all of them count."""
    for path in present:
        if not TABLES[path.parts[0]].of_studies:
            yield {"key": path.stem, "table": path.parts[0], "path": path.as_posix()}


def _cell_row(present: Container[Path], study: str | None, cell: Row) -> Row:
    """A cell of a manifest, with the hive folders of its path: those above the results root are not ours to read."""
    folders = dict(part.split("=", 1) for part in Path(cell["path"]).parts if "=" in part)
    return {
        "study": study,
        **cell,
        "done": Path(cell["path"]) in present,
        **{name: folders.get(name) for name in _PARTITIONS},
    }


def _planned(name: str, study: spec.Study) -> Iterable[Row]:
    """The accuracies that a study is to measure. They follow from its settings; the data decide only the cells' keys."""
    grid = plan(study, "", None)
    for position, evaluation in enumerate((*grid.black_box, *white_box(grid, (grid.base,)))):
        columns = {
            **evaluation.cell.columns,
            "access": evaluation.cell.partition["access"],
            "study": name,
            "position": position,
        }
        yield {column: columns[column] for column in _PLANNED.names}


def _create(connection: duckdb.DuckDBPyConnection, name: str, rows: Iterable[Row], schema: pa.Schema) -> None:
    content = pa.Table.from_pylist(list(rows), schema=schema)
    connection.register("content", content)
    connection.execute(f"create table {name} as from content")
    connection.unregister("content")


def _create_base_view(connection: duckdb.DuckDBPyConnection, name: str, files: list[str]) -> list[str]:
    """The view of one table, study in front where it has one; returns the file names that it needs permission for."""
    table = TABLES[name]
    study = ["study"] if table.of_studies else []
    if not files:
        fields = [*(pa.field(part, _TEXT) for part in (*study, *table.partition)), *table.schema]
        _create(connection, name, [], pa.schema(fields))
        return []
    patterns = [
        re.sub(r"([*?\[])", r"[\1]", file) for file in files
    ]  # a folder may be called 'run[1]'; DuckDB would glob
    connection.execute(f"set variable {name}_files = $1", [patterns])
    columns = ", ".join(
        [
            *study,
            *(f"cells.{part}" for part in table.partition),
            *(f'file."{column}"' for column in table.schema.names),
        ]
    )
    connection.execute(
        f"create view {name} as select {columns} "
        f"from read_parquet(getvariable('{name}_files'), hive_partitioning = false) file join cells on cells.key = file.cell"
    )
    return sorted({*files, *patterns})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
