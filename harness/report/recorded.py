"""What the records of the studies hold for the tables: the studies, their cells, what they are to measure.

A record is written when a study is planned, with all that its tables need later, so that nothing here must
know what a study's settings mean.
"""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.results.records import SCHEMAS

Row = Mapping[str, Any]

# Column -> SQL type.
STUDIES = {
    "study": "varchar",
    "dataset": "varchar",
    "title": "varchar",
    "paper": "varchar",
    "seeds": "bigint[]",
    "neighbours": "varchar",
    "effectiveness_k": "double",
    "protocol": "varchar",
    "architecture": "varchar",
    "controls_left_out": "varchar[]",
    "radii": "double[]",
}
FOLDERS = tuple(dict.fromkeys(name for table in SCHEMAS.values() for name in table.partition))
CELLS = {
    "study": "varchar",
    "table": "varchar",
    "step": "varchar",
    "title": "varchar",
    "key": "varchar",
    "path": "varchar",
    "done": "boolean",
    "reason": "varchar",
    "waits": "boolean",
    "detail": "varchar",
    **dict.fromkeys(FOLDERS, "varchar"),
}
REKEYED = {
    "study": "varchar",
    "at": "varchar",
    "package": "varchar",
    "before": "varchar",
    "after": "varchar",
    "cells": "integer",
    "sample": "integer",
}
CODE = {"study": "varchar", "package": "varchar", "digest": "varchar"}
PLANNED = {
    "study": "varchar",
    "position": "integer",
    "split": "varchar",
    "access": "varchar",
    "stage": "boolean",
    "role": "varchar",
    "name": "varchar",
    "method": "varchar",
    "settings": "varchar",
    "title": "varchar",
    "k": "double",
    "n": "integer",
    "training_attack": "varchar",
    "training_epsilon": "double",
    "seed": "bigint",
    "attack": "varchar",
    "attack_title": "varchar",
    "attack_method": "varchar",
    "norm": "varchar",
    "epsilon": "double",
    "step_size": "double",
}
NETWORKS = {
    "study": "varchar",
    "position": "integer",
    "role": "varchar",
    "name": "varchar",
    "method": "varchar",
    "title": "varchar",
    "seed": "bigint",
    "key": "varchar",
}


def study_row(study: str, record: Row) -> Row:
    """The row of a study in `studies`. HarnessError, here and below, for a record that lacks something."""
    with _complete(study):
        return {"study": study, **_chosen(STUDIES, record["about"])}


def rekeyed_rows(study: str, record: Row) -> list[Row]:
    """When code from outside was edited and cells made before kept their values: package by package.

    Edits that led to the code as it is: after another one the cells were made anew.
    """
    standing = {(package, digest) for package, digest in record["about"].get("code", {}).items()}
    rows: list[Row] = []
    for entry in reversed(record["about"].get("rekeyed", [])):
        for package, after in entry["to"].items():
            before = entry["from"].get(package)
            if before == after or (package, after) not in standing:
                continue
            standing.add((package, before))
            facts = {name: entry[name] for name in ("at", "cells", "sample")}
            rows.append({"study": study, **facts, "package": package, "before": before, "after": after})
    return rows[::-1]


def code_rows(study: str, record: Row) -> list[Row]:
    """The packages from outside that the study uses, with digests of their code."""
    code = record["about"].get("code", {})
    return [{"study": study, "package": package, "digest": digest} for package, digest in code.items()]


def planned_rows(study: str, record: Row) -> list[Row]:
    """The accuracies that a study is to measure, as far as they are known."""
    with _complete(study):
        return [{"study": study, **_chosen(PLANNED, row)} for row in record["planned"]]


def network_rows(study: str, record: Row) -> list[Row]:
    """The networks that a study tests, once for each seed."""
    with _complete(study):
        return [{"study": study, **_chosen(NETWORKS, row)} for row in record["about"]["networks"]]


def cell_rows(
    study: str, record: Row, files: Container[Path], failures: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """The pieces of work that a study consists of, and what became of each.

    ``files`` are the Parquet files that are there; ``failures`` says why others are not, by their paths.
    """
    with _complete(study):
        cells = {cell["key"]: cell for cell in record["cells"]}
        named = ("table", "step", "title", "key", "path")
        return [
            {"study": study, **{name: cell[name] for name in named}, **_state(cell["path"], files, failures)}
            for cell in cells.values()
        ]


def cells_of_no_study(files: Mapping[Path, Any]) -> list[Row]:
    """The files of tables that belong to no study: all of them count."""
    paths = [path for path in files if not SCHEMAS[path.parts[0]].of_studies]
    return [
        {"key": path.stem, "table": path.parts[0], "path": str(path), **_state(str(path), files, {})}
        for path in paths
    ]


def _state(path: str, files: Container[Path], failures: Mapping[str, Mapping[str, Any]]) -> Row:
    """What the files say of a cell, with the hive folders of its path (those above the root are not ours)."""
    failure = failures.get(path, {})
    folders = dict(part.split("=", 1) for part in Path(path).parts if "=" in part)
    return {
        "done": Path(path) in files,
        "reason": failure.get("reason"),
        "waits": failure.get("waits"),
        "detail": failure.get("detail"),
        **{name: folders.get(name) for name in FOLDERS},
    }


def _chosen(columns: Mapping[str, str], row: Row) -> Row:
    """The values of all columns but the study."""
    return {name: row[name] for name in columns if name != "study"}


@contextmanager
def _complete(study: str) -> Iterator[None]:
    """HarnessError where the record lacks what this harness writes. (The store refuses another version's.)"""
    again = "run it again; what is finished stays"
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"the record of study '{study}' lacks something ({error}): {again}") from error
