"""A study for other programs: its tables and views as JSON, its adversarial images as arrays."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from harness.report import meanings
from harness.report.database import query
from harness.report.tables import TABLES, laid_out
from harness.report.tables.table import Table
from harness.results.store import Store

# Of a float. The last ones of 17 depend on the order in which DuckDB's threads add up.
DIGITS = 9
# Beside the views that the printed tables are made of.
VIEWS = ("over_seeds", "robust", "robust_over_seeds", "headline", "missing")
_ABOUT = ("name", "method", "attack", "attack_method", "norm", "epsilon", "step_size", "seed", "split")


@dataclass(frozen=True)
class Adversarial:
    """The images of one attack cell.

    ``images`` float32 [N, C, H, W] in [0, 1]; ``labels`` int64 [N], the true classes; ``ids`` int64 [N], the
    images' positions in their source; ``about``: what they are; ``name``: for a file.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    about: Mapping[str, Any]


def documents(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, Any]]:
    """(path below the folder, what to write there as JSON) of the printed tables and the views."""
    printed: dict[str, list[Any]] = {}
    for table in laid_out(connection):
        printed.setdefault(table.name, []).append(_table(table))
    for name, tables in printed.items():
        yield f"tables/{name}.json", tables
    for name in dict.fromkeys((*TABLES, *VIEWS)):
        yield f"views/{name}.json", _view(connection, name)


def adversarial(store: Store, record: Mapping[str, Any]) -> Iterator[Adversarial]:
    """The images of every finished cell of a study (its record) that keeps some, cell by cell.

    HarnessError for a damaged file.
    """
    files = store.files()
    taken: set[str] = set()
    for cell in record["cells"]:
        path = Path(cell["path"])
        if cell["table"] not in ("attack", "evaluation") or path not in files:
            continue
        meta = store.metadata(path)
        if meta["artifact"] is None:
            continue
        about = _about(meta)
        name = _name(about)
        name = f"{name}-{meta['key']}" if name in taken else name
        taken.add(name)
        rows = store.rows(path)
        labels, ids = (rows[column].to_numpy().astype(np.int64) for column in ("label", "image_id"))
        images = store.tensors_at(path)["adversarial"].astype(np.float32, copy=False)
        yield Adversarial(name, images, labels, ids, about)


def _about(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Which attack on which network (name) made the images, and of what."""
    known = {**meta["columns"], **meta["partition"]}
    return {name: known[name] for name in _ABOUT}


def _name(about: Mapping[str, Any]) -> str:
    """'base-fgsm-0.0313725-test-seed0'."""
    parts = [about["name"], about["attack"]]
    if about["epsilon"] is not None:
        parts.append(f"{about['epsilon']:.6g}")
    if about["step_size"] is not None:
        parts.append(f"step{about['step_size']:.3g}")
    parts += [about["split"], f"seed{about['seed']}"]
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(parts).replace("=", ""))


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "note": table.note, "header": table.header, "rows": table.rows}


def _view(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    """With the meaning of each column."""
    described = meanings.columns(connection, name)
    columns = [dict(zip(described.header, line, strict=True)) for line in described.rows]
    rows = [_plain(row) for row in query(connection, f'from "{name}"').to_pylist()]
    return {"view": name, "meaning": described.note, "columns": columns, "rows": rows}


def _plain(value: Any) -> Any:
    """As JSON has it: of a number the digits that repeat, of what it has no number for the word."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value
