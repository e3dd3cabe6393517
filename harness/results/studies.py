"""What is kept of a study beside its cells: which they are, what it is to measure, and what failed."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import Failed
from harness.results.cells import FAILURES, Cell, failure_path, hardware
from harness.results.damage import Damaged, must_parse, read
from harness.results.records import SCHEMA_VERSION, SCHEMAS
from harness.results.storage import Folder

STUDIES = "studies"
_AGAIN = "run it again; what is finished stays"


def record(
    folder: Folder,
    name: str,
    study: Mapping[str, Any],
    cells: Mapping[str, list[Cell]],
    about: Mapping[str, Any],
    planned: list[dict[str, Any]],
) -> None:
    """Name the cells that a study consists of, done or not, by the steps that make them.

    ``about`` and ``planned`` are what its tables need to be laid out: whoever reads them needs no settings
    class.
    """
    path = f"{STUDIES}/{name}.json"
    listed = [
        {"key": c.key, "table": c.table, "path": c.path.as_posix(), "title": c.title, "step": step}
        for step, mine in cells.items()
        for c in mine
    ]
    content = {"schema_version": SCHEMA_VERSION, "study": dict(study), "about": dict(about)}
    payload = json.dumps({**content, "cells": listed, "planned": planned}, indent=1).encode()
    with suppress(FileNotFoundError):
        if folder.read(path) == payload:
            return
    folder.write(path, payload)


def recorded(folder: Folder) -> dict[str, dict[str, Any]]:
    """Study name -> its record, the most recently recorded last; Damaged for one that can't be read."""
    files = folder.files(STUDIES, ".json")
    ordered = sorted(files, key=lambda path: (files[path].modified_ns, path))
    return {path.stem: read_record(folder, path) for path in ordered}


def read_record(folder: Folder, path: Path) -> dict[str, Any]:
    """The record of one study; raises Damaged, also for one of another schema version."""
    content = read(folder, path)
    with must_parse(folder, path):
        record: dict[str, Any] = json.loads(content)
        _check_version(record, path.stem)
        _check_cells(record)
        _check_layout(record, path.stem)
    return record


def _check_version(record: Mapping[str, Any], name: str) -> None:
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        written = "an earlier version" if version is None else f"version {version}"
        expected = f"this harness reads version {SCHEMA_VERSION}"
        raise Damaged(f"the record of study '{name}' is of {written}, {expected}: {_AGAIN}")


def _check_layout(record: Mapping[str, Any], name: str) -> None:
    """The parts from which tables are laid out; who reads them looks closer."""
    for part, kind in (("about", dict), ("planned", list)):
        if not isinstance(record.get(part), kind):
            raise Damaged(f"the record of study '{name}' lacks something ('{part}'): {_AGAIN}")


def _check_cells(record: Mapping[str, Any]) -> None:
    """Raise TypeError, KeyError or ValueError unless a record names cells of ours inside the root."""
    if not isinstance(record["study"], dict):
        raise TypeError("'study' holds no settings")
    for cell in record["cells"]:
        parts = PurePosixPath(cell["path"]).parts
        is_inside = parts[:1] == (cell["table"],) and cell["table"] in SCHEMAS and ".." not in parts
        if not is_inside or parts[-1] != f"{cell['key']}.parquet":
            raise ValueError(f"'{cell['path']}' is no file of these results")


# --- what failed ---------------------------------------------------------------------------------------


def record_failure(folder: Folder, cell: Cell, failure: Failed) -> None:
    """Keep why a cell could not be made, until it is made."""
    content = {"key": cell.key, "title": cell.title, **asdict(failure), "facts": hardware()}
    folder.write(failure_path(cell.path), json.dumps(content, indent=1).encode())


def failure(folder: Folder, cell: Cell) -> Failed | None:
    """Why the cell could not be made when it was last tried; None where it was not."""
    found = _failure(folder, failure_path(cell.path))
    return Failed(found["reason"], found["detail"], found["waits"]) if found else None


def failures(folder: Folder) -> dict[str, dict[str, Any]]:
    """The cells that failed when last tried, by the path they would have: title, reason, waits, detail."""
    found = {}
    for path in folder.files(FAILURES, ".json"):
        cell = path.relative_to(FAILURES).with_suffix(".parquet")
        found[cell.as_posix()] = _failure(folder, path)
    return found


def _failure(folder: Folder, path: Path) -> dict[str, Any]:
    """A failure's record; empty where there is none that can be read."""
    with suppress(FileNotFoundError, ValueError):
        content: dict[str, Any] = json.loads(folder.read(path))
        return content
    return {}
