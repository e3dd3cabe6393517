"""Where results live: a cell's path follows from what produced it, and a file that is there is done.

A cell is one Parquet file and, where it has tensors (weights, adversarial images), one safetensors
file beside it, written first and named with its digest in the Parquet file's metadata. Both appear
whole or not at all (``storage``), so a reader never sees half a cell and any command may be run again
at any time.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.records import SCHEMA_VERSION, TABLES
from harness.storage import CONNECTIONS, Folder, Info

_META = b"harness"
_ROOT_FILE = "harness.json"
STUDIES = "studies"
_FOOTER_BYTES = 1 << 16  # of a Parquet file's end: more than the metadata of any cell seen


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
    """A file that cannot be trusted, by its path below the root, and why."""

    path: Path
    reason: str


class _Damaged(HarnessError):
    """A file is gone, or not what was written; a storage that does not answer is another matter."""


@dataclass(frozen=True)
class Store:
    """The results root: a local folder, or a URI as `Folder.at` takes it. Paths of files are relative to it.

    Any method may raise HarnessError: the storage refuses, or a file is damaged.
    """

    place: Path | str

    @cached_property
    def folder(self) -> Folder:
        return Folder.at(self.place)

    @property
    def local_root(self) -> Path | None:
        """The root's local path; None in an object store."""
        return self.folder.local

    @property
    def root(self) -> Path:
        """The root's local path, for what works on local files only: HarnessError in an object store."""
        if self.folder.local is None:
            raise HarnessError(f"this needs the results in a local folder, got '{self.folder}'")
        return self.folder.local

    def open(self) -> "Store":
        """Make the root where there is none; raise HarnessError if it can't be written or is another version's."""
        self.folder.check()
        if self.folder.info(_ROOT_FILE) is None:
            self.folder.write(_ROOT_FILE, json.dumps({"schema_version": SCHEMA_VERSION}).encode())
        probe = f".write-probe.{platform.node()}.{os.getpid()}.tmp"
        self.folder.write(probe, b"writable")
        self.folder.delete(probe)
        self.check_version()
        return self

    def check_version(self) -> None:
        """Raise HarnessError where the root was written by an incompatible version."""
        self.folder.check()
        marker = self.folder.locate(_ROOT_FILE)
        try:
            found = json.loads(self.folder.read(_ROOT_FILE))["schema_version"]
        except FileNotFoundError:
            raise HarnessError(f"'{self.folder}' holds no results: run a study first, or name its folder with --results") from None
        except (ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"'{marker}' cannot be read ({error}): is '{self.folder}' a results folder?") from error
        if found != SCHEMA_VERSION:
            raise HarnessError(
                f"the results in '{self.folder}' have schema version {found}, this harness reads and writes {SCHEMA_VERSION}: "
                "choose another folder with --results, or the harness version that wrote them. Nothing was changed."
            )

    # --- cells ---

    def is_done(self, cell: Cell) -> bool:
        """The cell's file is there, complete, and its tensors have the recorded size. Bytes are checked on reading."""
        try:
            meta = self.metadata(cell.path)
        except _Damaged:
            return False
        artifact = meta["artifact"]
        tensors = None if artifact is None else self.folder.info(_tensors(cell.path))
        return meta["key"] == cell.key and (artifact is None or (tensors is not None and tensors.size == artifact["bytes"]))

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are not done."""
        if self.folder.local is not None:
            return [cell for cell in cells if not self.is_done(cell)]
        cells = list(cells)
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return [cell for cell, done in zip(cells, threads.map(self.is_done, cells), strict=True) if not done]

    def write(
        self, cell: Cell, rows: Mapping[str, np.ndarray | list[Any]], tensors: Mapping[str, np.ndarray] | None = None, **facts: Any
    ) -> None:
        """Write a finished cell: ``rows`` by column, constant columns filled in, ``facts`` (hardware, versions) beside the spec.

        Raises KeyError/ArrowInvalid for rows that don't fit the table's schema (our mistake), HarnessError for a full disk.
        """
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
            self.folder.write(_tensors(cell.path), payload)
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
        self.folder.write(cell.path, sink.getvalue())

    def read(self, cell: Cell) -> pa.Table:
        """The cell's rows, page checksums verified; HarnessError names a damaged file."""
        return self.rows(cell.path)

    def rows(self, path: Path | str) -> pa.Table:
        """The rows of the file at a path below the root, checked as by ``read``."""
        content = self._read(path)
        with self._undamaged(path):
            # Without checksums a flipped byte is a wrong number and no error. ParquetFile reads one file, no hive folders.
            with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
                return file.read()

    def metadata(self, path: Path | str) -> dict[str, Any]:
        """What made the file at a path below the root: key, table, partition, columns, spec, needs, facts."""
        with self._found(path), self.folder.open(path) as file:
            size = file.size()
            end = file.read_at(min(size, _FOOTER_BYTES), max(0, size - _FOOTER_BYTES))
            if size > len(end) < int.from_bytes(end[-8:-4], "little") + 8:
                end = file.read_at(size, 0)
        with self._undamaged(path):
            meta: dict[str, Any] = json.loads((pq.read_schema(pa.BufferReader(end)).metadata or {})[_META])
        if meta["schema_version"] != SCHEMA_VERSION:
            raise _Damaged(f"'{self.folder.locate(path)}' has schema version {meta['schema_version']}, expected {SCHEMA_VERSION}")
        return meta

    def tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        """The cell's tensors, their digest verified; HarnessError names a damaged file."""
        from safetensors.numpy import load

        path = _tensors(cell.path)
        payload = self._read(path)
        if hashlib.sha256(payload).hexdigest() != self.metadata(cell.path)["artifact"]["sha256"]:
            raise _Damaged(f"'{self.folder.locate(path)}' is damaged: its digest is not the one recorded. Delete it and run again.")
        return load(payload)

    def modified(self, path: Path | str) -> float:
        """When the file at a path below the root was written, in seconds since the epoch."""
        with self._found(path):
            if (info := self.folder.info(path)) is None:
                raise FileNotFoundError
            return info.modified_ns / 1e9

    def _read(self, path: Path | str) -> bytes:
        with self._found(path):
            return self.folder.read(path)

    @contextmanager
    def _found(self, path: Path | str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _Damaged(f"'{self.folder.locate(path)}' is missing: run its study again") from error

    @contextmanager
    def _undamaged(self, path: Path | str) -> Iterator[None]:
        """What cannot be parsed is told as damage of the file."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise _Damaged(f"'{self.folder.locate(path)}' is damaged: {error}. Delete it and run again.") from error

    # --- a training in progress ---

    def checkpoint_path(self, cell: Cell) -> Path:
        """Where a training keeps its last finished epoch; gone when the cell is done."""
        return cell.path.with_suffix(".checkpoint")

    def save_checkpoint(self, cell: Cell, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Replace the training's checkpoint: tensors and plain state, one atomic file."""
        from safetensors.numpy import save

        payload = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"state": json.dumps(state)})
        self.folder.write(self.checkpoint_path(cell), hashlib.sha256(payload).digest() + payload)

    def load_checkpoint(self, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The last checkpoint, or None where there is none or it is damaged (the training then starts over)."""
        from safetensors.numpy import load

        try:
            data = self.folder.read(self.checkpoint_path(cell))
        except FileNotFoundError:
            return None
        digest, payload = data[:32], data[32:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        return load(payload), json.loads(header["__metadata__"]["state"])

    def drop_checkpoint(self, cell: Cell) -> None:
        """Forget the training's checkpoint, if there is one."""
        self.folder.delete(self.checkpoint_path(cell))

    # --- studies ---

    def record_study(self, name: str, study: Mapping[str, Any], cells: list[Cell]) -> None:
        """Name the cells that a study consists of, done or not: what its tables are made from."""
        path = f"{STUDIES}/{name}.json"
        record = {"study": dict(study), "cells": [{"key": c.key, "table": c.table, "path": c.path.as_posix()} for c in cells]}
        payload = json.dumps(record, indent=1).encode()
        try:
            if self.folder.read(path) == payload:
                return
        except FileNotFoundError:
            pass
        self.folder.write(path, payload)

    def studies(self) -> dict[str, dict[str, Any]]:
        """Study name -> its record, the most recently recorded last."""
        found = {}
        for path, _ in sorted(self.folder.files(STUDIES, ".json").items(), key=lambda item: (item[1].modified_ns, item[0])):
            try:
                found[path.stem] = json.loads(self._read(path))
            except ValueError as error:
                raise HarnessError(
                    f"'{self.folder.locate(path)}' is damaged: {error}. Delete it and run its study again: no result is lost."
                ) from error
        return found

    # --- checking ---

    def files(self) -> dict[Path, Info]:
        """All Parquet files of the tables, by their paths below the root."""
        return {path: info for name in TABLES for path, info in self.folder.files(name, ".parquet").items()}

    def verify(self) -> Iterator[tuple[Path, Damage | None]]:
        """Read every file back with checksums: (path, None) when whole, else what is wrong with it."""
        for path in self.files():
            try:
                self._verify(path)
            except _Damaged as error:
                yield path, Damage(path, str(error))
            else:
                yield path, None

    def _verify(self, path: Path) -> None:
        table, meta = self.rows(path), self.metadata(path)
        if path.stem != meta["key"]:
            raise _Damaged(f"holds cell {meta['key']}, not the one that its name says")
        if table.schema.names != TABLES[meta["table"]].schema.names:
            raise _Damaged("its columns are not the table's")
        if meta["artifact"] is not None:
            tensors = _tensors(path)
            with self._found(tensors), self.folder.open(tensors) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != meta["artifact"]["sha256"]:
                raise _Damaged(f"'{tensors.name}' is damaged: its digest is not the one recorded")


def _tensors(path: Path) -> Path:
    """The safetensors file beside a cell's Parquet file."""
    return path.with_suffix(".safetensors")


def hardware() -> dict[str, Any]:
    """What a cell was made on and with: kept beside its spec, never part of its key."""
    versions = {}
    for name in ("harness", "torch", "numpy", "faiss-cpu", "faiss-gpu", "foolbox", "ray", "pyarrow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}
