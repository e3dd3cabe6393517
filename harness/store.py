"""Where results live: a cell's path follows from what produced it, and a file that is there is done.

A cell is one Parquet file and, where it has tensors (weights, adversarial images), one safetensors
file beside it, written first and named with its digest in the Parquet file's metadata. Both appear
by an atomic rename, so a reader never sees half a cell and any command may be run again at any time.
"""

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.records import SCHEMA_VERSION, TABLES

_META = b"harness"
_ROOT_FILE = "harness.json"
_FACTS = {"key", "schema_version", "table", "partition", "columns", "spec", "needs", "artifact"}
STUDIES = "studies"


@dataclass(frozen=True)
class Cell:
    """One addressed piece of work.

    ``spec`` is everything that determines its rows, ``needs`` the keys of the cells it is made
    from; the key is a hash of both. ``columns`` are the plain columns that all its rows share.
    """

    table: str
    partition: Mapping[str, str]
    columns: Mapping[str, Any]
    spec: Mapping[str, Any] = field(repr=False)
    needs: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def key(self) -> str:
        """16 hex digits that name the cell."""
        identity = [SCHEMA_VERSION, self.table, dict(self.partition), dict(self.columns), dict(self.spec), self.needs]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        """The Parquet file, relative to the results root."""
        folders = [f"{name}={self.partition[name]}" for name in TABLES[self.table].partition]
        return Path(self.table, *folders, f"{self.key}.parquet")


@dataclass(frozen=True)
class Damage:
    """A file that cannot be trusted, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Store:
    """The results root."""

    root: Path

    @property
    def local_root(self) -> Path | None:
        """The root's local path; None where it is no local folder."""
        return self.root

    def open(self) -> "Store":
        """Make the root where there is none; raise HarnessError if it can't be written or is another version's."""
        marker = self.root / _ROOT_FILE
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                _write_atomically(marker, json.dumps({"schema_version": SCHEMA_VERSION, "id": uuid.uuid4().hex}).encode())
            probe = self.root / f".write-probe.{os.getpid()}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise HarnessError(f"the results folder '{self.root}' cannot be written: {error.strerror or error}") from error
        self.check_version()
        return self

    def check_version(self) -> None:
        """Raise HarnessError where the root was written by an incompatible version."""
        marker = self.root / _ROOT_FILE
        if not marker.exists():
            raise HarnessError(f"'{self.root}' holds no results: run a study first, or name its folder with --results")
        try:
            found = json.loads(marker.read_text())["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"'{marker}' cannot be read ({error}): is '{self.root}' a results folder?") from error
        if found != SCHEMA_VERSION:
            raise HarnessError(
                f"the results in '{self.root}' have schema version {found}, this harness reads and writes {SCHEMA_VERSION}: "
                "choose another folder with --results, or the harness version that wrote them. Nothing was changed."
            )

    def identity(self) -> str:
        """What tells these results from others, wherever they are moved; roots of earlier versions are told by their path."""
        self.check_version()
        found = json.loads((self.root / _ROOT_FILE).read_text()).get("id")
        return str(found or hashlib.sha256(str(self.root).encode()).hexdigest()[:32])

    # --- cells ---

    def is_done(self, cell: Cell) -> bool:
        """The cell's file is there, complete, and its tensors have the recorded size. Bytes are checked on reading."""
        path = self.root / cell.path
        if not path.exists():
            return False
        try:
            meta = _metadata(path)
        except HarnessError:
            return False
        artifact = meta.get("artifact")
        tensors = path.with_suffix(".safetensors")
        return meta["key"] == cell.key and (artifact is None or (tensors.exists() and tensors.stat().st_size == artifact["bytes"]))

    def write(
        self, cell: Cell, rows: Mapping[str, np.ndarray | list[Any]], tensors: Mapping[str, np.ndarray] | None = None, **facts: Any
    ) -> None:
        """Write a finished cell: ``rows`` by column, constant columns filled in, ``facts`` (hardware, versions) beside the spec.

        Raises KeyError/ArrowInvalid for rows that don't fit the table's schema (our mistake), OSError for a full disk.
        """
        path = self.root / cell.path
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = TABLES[cell.table].schema
        length = len(next(iter(rows.values())))
        constant = {"cell": cell.key, **cell.columns}
        columns = [
            pa.array(rows[name], type=schema.field(name).type) if name in rows
            else pa.array([constant[name]] * length, type=schema.field(name).type)
            for name in schema.names
        ]  # fmt: skip
        artifact = None
        if tensors is not None:
            from safetensors.numpy import save

            payload = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
            artifact = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
            _write_atomically(path.with_suffix(".safetensors"), payload)
        meta = {"key": cell.key, "schema_version": SCHEMA_VERSION, "table": cell.table, "partition": dict(cell.partition)}
        meta |= {"columns": dict(cell.columns), "spec": dict(cell.spec), "needs": list(cell.needs), "artifact": artifact, "facts": facts}
        table = pa.Table.from_arrays(columns, schema=schema.with_metadata({_META: json.dumps(meta).encode()}))
        sink = pa.BufferOutputStream()
        floats = [name for name in schema.names if pa.types.is_floating(schema.field(name).type)]
        pq.write_table(
            table, sink, compression="zstd", write_page_checksum=True,
            use_dictionary=[name for name in schema.names if name not in floats],
            use_byte_stream_split=floats,
        )  # fmt: skip
        _write_atomically(path, sink.getvalue().to_pybytes())

    def read(self, cell: Cell) -> pa.Table:
        """The cell's rows, page checksums verified; HarnessError names a damaged file."""
        return self.rows(cell.path)

    def rows(self, path: Path | str) -> pa.Table:
        """The rows of the file at a path below the root, checked as by ``read``."""
        return _read(self.root / path)

    def metadata(self, path: Path | str) -> dict[str, Any]:
        """What made the file at a path below the root: key, table, partition, columns, spec, needs, facts."""
        return _metadata(self.root / path)

    def tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        """The cell's tensors, their digest verified; HarnessError names a damaged file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.root / cell.path
        artifact = _metadata(path)["artifact"]
        payload = path.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(payload).hexdigest() != artifact["sha256"]:
            raise HarnessError(
                f"'{path.with_suffix('.safetensors')}' is damaged: its digest is not the one recorded. Delete it and run again."
            )
        try:
            return load(payload)
        except SafetensorError as error:
            raise HarnessError(f"'{path.with_suffix('.safetensors')}' is no safetensors file: {error}. Delete it and run again.") from error

    # --- a training in progress ---

    def checkpoint_path(self, cell: Cell) -> Path:
        """Where a training keeps its last finished epoch; gone when the cell is done."""
        return (self.root / cell.path).with_suffix(".checkpoint")

    def save_checkpoint(self, cell: Cell, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Replace the training's checkpoint: tensors and plain state, one atomic file."""
        from safetensors.numpy import save

        path = self.checkpoint_path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"state": json.dumps(state)})
        _write_atomically(path, hashlib.sha256(payload).digest() + payload)

    def load_checkpoint(self, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The last checkpoint, or None where there is none or it is damaged (the training then starts over)."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.checkpoint_path(cell)
        if not path.exists():
            return None
        digest, payload = (data := path.read_bytes())[:32], data[32:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        try:
            header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
            return load(payload), json.loads(header["__metadata__"]["state"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None

    # --- studies ---

    def record_study(self, name: str, study: Mapping[str, Any], cells: list[Cell]) -> None:
        """Name the cells that a study consists of, done or not: what its tables are made from."""
        path = self.root / STUDIES / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        record = {"study": dict(study), "cells": [{"key": c.key, "table": c.table, "path": c.path.as_posix()} for c in cells]}
        payload = json.dumps(record, indent=1).encode()
        if not path.exists() or path.read_bytes() != payload:
            _write_atomically(path, payload)

    def studies(self) -> dict[str, dict[str, Any]]:
        """Study name -> its record, the most recently recorded last."""
        files = sorted((self.root / STUDIES).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        found = {}
        for path in files:
            try:
                found[path.stem] = _manifest(json.loads(path.read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise HarnessError(f"'{path}' is damaged: {error}. Delete it and run its study again: no result is lost.") from error
        return found

    # --- checking ---

    def files(self) -> list[Path]:
        """All Parquet files of the four tables."""
        return sorted(path for name in TABLES for path in (self.root / name).rglob("*.parquet") if not path.name.startswith("."))

    def verify(self) -> Iterator[tuple[Path, Damage | None]]:
        """Read every file back with checksums: (path, None) when whole, else what is wrong with it."""
        for path in self.files():
            try:
                table, meta = _read(path), _metadata(path)
                if path.stem != meta["key"]:
                    raise HarnessError(f"holds cell {meta['key']}, not the one that its name says")
                if table.schema.names != TABLES[meta["table"]].schema.names:
                    raise HarnessError("its columns are not the table's")
                artifact = meta["artifact"]
                if artifact is not None:
                    tensors = path.with_suffix(".safetensors")
                    if not tensors.exists():
                        raise HarnessError(f"'{tensors.name}' is missing")
                    if _digest(tensors) != artifact["sha256"]:
                        raise HarnessError(f"'{tensors.name}' is damaged: its digest is not the one recorded")
            except HarnessError as error:
                yield path, Damage(path, str(error))
            else:
                yield path, None


def _manifest(record: dict[str, Any]) -> dict[str, Any]:
    """A study's record as it was read; ValueError, KeyError or TypeError unless it names cells of ours inside the root."""
    if not isinstance(record["study"], dict):
        raise TypeError("'study' holds no settings")
    for cell in record["cells"]:
        parts = PurePosixPath(cell["path"]).parts
        inside = parts[:1] == (cell["table"],) and cell["table"] in TABLES and ".." not in parts
        if not inside or parts[-1] != f"{cell['key']}.parquet":
            raise ValueError(f"'{cell['path']}' is no file of these results")
    return record


def _metadata(path: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[_META])
        if not isinstance(meta, dict) or not meta.keys() >= _FACTS:
            raise ValueError("what made it is not recorded in it")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise HarnessError(f"'{path}' is damaged: {error}. Delete it and run again.") from error
    if meta["schema_version"] != SCHEMA_VERSION:
        raise HarnessError(f"'{path}' has schema version {meta['schema_version']}, expected {SCHEMA_VERSION}")
    return meta


def _read(path: Path) -> pa.Table:
    try:
        # Without checksums a flipped byte is a wrong number and no error. ParquetFile reads one file, no hive folders.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise HarnessError(f"'{path}' is damaged: {error}. Delete it and run again.") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, payload: bytes) -> None:
    # The leading dot hides the file from pyarrow, the suffix from DuckDB's glob.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hardware() -> dict[str, Any]:
    """What a cell was made on and with: kept beside its spec, never part of its key."""
    versions = {}
    for name in ("harness", "torch", "numpy", "faiss-cpu", "faiss-gpu", "foolbox", "ray", "pyarrow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}
