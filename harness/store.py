"""Where results live: a cell's path follows from what produced it, and a file that is there is done.

A cell is one Parquet file and, where it has tensors (weights, adversarial images), one safetensors
file beside it, written first and named with its digest in the Parquet file's metadata. Both appear
whole or not at all (``storage``), so a reader never sees half a cell and any command may be run again
at any time.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import checkpoints, locking
from harness.cells import FAILED, Cell, failure_path, hardware, key_of, tensors_path
from harness.errors import Failed, HarnessError
from harness.records import SCHEMA_VERSION, TABLES
from harness.seal import BLANK, is_whole, seal
from harness.storage import CONNECTIONS, Folder, Info

_META = b"harness"
_ROOT_FILE = "harness.json"
_FACTS = {"key", "schema_version", "table", "partition", "columns", "spec", "needs", "artifact"}
STUDIES = "studies"
_FOOTER_BYTES = 1 << 16  # of a Parquet file's end: more than the metadata of any cell seen


class Damaged(HarnessError):
    """A file is gone, or not what was written; a storage that does not answer is another matter."""


@dataclass(frozen=True)
class Store:
    """The results root: a local folder, or a URI as `Folder.at` takes it. Paths of files are relative to it.

    Any method may raise HarnessError: the storage refuses, or a file is damaged.
    """

    place: Path | str

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "place", Folder.at(self.place).place
        )  # a relative path means the driver's folder on workers, too

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
            self.folder.write(
                _ROOT_FILE, json.dumps({"schema_version": SCHEMA_VERSION, "id": uuid.uuid4().hex}).encode()
            )
        with self.probe():
            pass
        self.check_version()
        return self

    def check_version(self) -> None:
        """Raise HarnessError where the root was written by an incompatible version."""
        self.folder.check()
        marker = self.folder.locate(_ROOT_FILE)
        try:
            found = json.loads(self.folder.read(_ROOT_FILE))["schema_version"]
        except FileNotFoundError:
            raise HarnessError(
                f"'{self.folder}' holds no results: run a study first, or name its folder with --results"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise HarnessError(
                f"'{marker}' cannot be read ({error}): is '{self.folder}' a results folder?"
            ) from error
        if found != SCHEMA_VERSION:
            raise HarnessError(
                f"the results in '{self.folder}' have schema version {found}, this harness reads and writes {SCHEMA_VERSION}: "
                "choose another folder with --results, or the harness version that wrote them. Nothing was changed."
            )

    def identity(self) -> str:
        """What tells these results from others, wherever they are moved; roots of earlier versions are told by their path."""
        self.check_version()
        found = json.loads(self._read(_ROOT_FILE)).get("id")
        return str(found or hashlib.sha256(str(self.folder).encode()).hexdigest()[:32])

    # --- cells ---

    def is_done(self, cell: Cell) -> bool:
        """The cell's file is there, complete, and its tensors have the recorded size. Bytes are checked on reading."""
        try:
            meta = self.metadata(cell.path)
        except Damaged:
            return False
        artifact = meta["artifact"]
        tensors = None if artifact is None else self.folder.info(tensors_path(cell.path))
        return meta["key"] == cell.key and (
            artifact is None or (tensors is not None and tensors.size == artifact["bytes"])
        )

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are not done."""
        cells = list(cells)
        if self.folder.local is not None:
            return [cell for cell in cells if not self.is_done(cell)]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return [
                cell for cell, done in zip(cells, threads.map(self.is_done, cells), strict=True) if not done
            ]

    def write(
        self,
        cell: Cell,
        rows: Mapping[str, np.ndarray | list[Any]],
        tensors: Mapping[str, np.ndarray] | None = None,
        **facts: Any,
    ) -> None:
        """Write a finished cell: ``rows`` by column, constant columns filled in, ``facts`` (hardware, versions) beside the spec.

        A cell that is done stays as it is: another driver was faster.
        Raises KeyError/ArrowInvalid for rows that don't fit the table's schema (our mistake), HarnessError for a full disk.
        """
        if self.is_done(cell):
            return
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
            self.folder.write(tensors_path(cell.path), payload)
        meta = {
            "key": cell.key,
            "schema_version": SCHEMA_VERSION,
            "table": cell.table,
            "partition": dict(cell.partition),
        }
        meta |= {
            "columns": dict(cell.columns),
            "spec": dict(cell.spec),
            "needs": [need.key for need in cell.needs],
            "made_from": {need.path.as_posix(): self._tensors_digest(need.path) for need in cell.needs},
            "artifact": artifact,
            "facts": facts,
        }
        meta["digest"] = BLANK
        table = pa.Table.from_arrays(columns, schema=schema.with_metadata({_META: json.dumps(meta).encode()}))
        sink = pa.BufferOutputStream()
        floats = [name for name in schema.names if pa.types.is_floating(schema.field(name).type)]
        pq.write_table(
            table, sink, compression="zstd", write_page_checksum=True,
            use_dictionary=[name for name in schema.names if name not in floats],
            use_byte_stream_split=floats,
        )  # fmt: skip
        self.folder.write(cell.path, seal(sink.getvalue().to_pybytes()))
        self.folder.delete(failure_path(cell.path))

    def _tensors_digest(self, path: Path | str) -> str | None:
        """Of a cell as it is now: made again on another machine it may have other last bits under the same key."""
        with suppress(Damaged):
            artifact = self.metadata(path)["artifact"]
            return artifact and str(artifact["sha256"])
        return None

    def read(self, cell: Cell) -> pa.Table:
        """The cell's rows, page checksums verified; HarnessError names a damaged file."""
        return self.rows(cell.path)

    def rows(self, path: Path | str) -> pa.Table:
        """The rows of the file at a path below the root, checked as by ``read``."""
        content = self._read(path)
        with self._undamaged(path):
            # Without checksums a flipped byte is a wrong number and no error. ParquetFile reads one file, no hive folders.
            with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
                table = file.read()
            described = (table.schema.metadata or {})[_META]
            digest = json.loads(described).get("digest")
        sealed = not described.endswith(
            b"}}"
        )  # earlier versions' files have page checksums alone, and end with their facts
        if sealed and not (digest and is_whole(content, digest)):
            raise self._damaged(path, "its digest is not the one recorded")
        return table

    def metadata(self, path: Path | str) -> dict[str, Any]:
        """What made the file at a path below the root: key, table, partition, columns, spec, needs, facts."""
        with self._found(path), self.folder.open(path) as file:
            size = file.size()
            end = file.read_at(min(size, _FOOTER_BYTES), max(0, size - _FOOTER_BYTES))
            if size > len(end) < int.from_bytes(end[-8:-4], "little") + 8:
                end = file.read_at(size, 0)
        with self._undamaged(path):
            meta: dict[str, Any] = json.loads((pq.read_schema(pa.BufferReader(end)).metadata or {})[_META])
            if not isinstance(meta, dict) or not meta.keys() >= _FACTS:
                raise ValueError("what made it is not recorded in it")
            if meta["schema_version"] != SCHEMA_VERSION:
                raise Damaged(
                    f"'{self.folder.locate(path)}' has schema version {meta['schema_version']}, expected {SCHEMA_VERSION}"
                )
            return meta

    def tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        """The cell's tensors, their digest verified; HarnessError names a damaged file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = tensors_path(cell.path)
        payload = self._read(path)
        if hashlib.sha256(payload).hexdigest() != self.metadata(cell.path)["artifact"]["sha256"]:
            raise self._damaged(path, "its digest is not the one recorded")
        try:
            return load(payload)
        except SafetensorError as error:
            raise self._damaged(path, f"no safetensors file: {error}") from error

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
            raise Damaged(f"'{self.folder.locate(path)}' is missing: run its study again") from error

    def _damaged(self, path: Path | str, why: str) -> Damaged:
        return Damaged(
            f"'{self.folder.locate(path)}' is damaged: {why.rstrip('.')}. Remove it (`harness verify --repair`) and run again"
        )

    @contextmanager
    def _undamaged(self, path: Path | str) -> Iterator[None]:
        """What cannot be parsed is told as damage of the file."""
        try:
            yield
        except HarnessError:
            raise
        except Exception as error:  # from pyarrow and json, which read nonsense in many ways
            raise self._damaged(path, str(error)) from error

    # --- what failed ---

    def record_failure(self, cell: Cell, title: str, failure: Failed) -> None:
        """Keep why a cell could not be made, until it is made."""
        record = {"key": cell.key, "title": title, **asdict(failure), "facts": hardware()}
        self.folder.write(failure_path(cell.path), json.dumps(record, indent=1).encode())

    def failure(self, cell: Cell) -> str | None:
        """Why the cell could not be made when it was last tried; None where it was not."""
        return self._failure(failure_path(cell.path)).get("reason")

    def failures(self) -> dict[str, dict[str, Any]]:
        """The cells that failed when last tried, by the path that they would have: title, reason, waits, detail."""
        found = [path for name in TABLES for path in self.folder.files(name, FAILED)]
        return {str(path).removesuffix(FAILED) + ".parquet": self._failure(path) for path in found}

    def _failure(self, path: Path) -> dict[str, Any]:
        """A failure's record; empty where there is none that can be read."""
        with suppress(FileNotFoundError, ValueError):
            record: dict[str, Any] = json.loads(self.folder.read(path))
            return record
        return {}

    # --- studies ---

    def record_study(self, name: str, study: Mapping[str, Any], cells: list[Cell]) -> None:
        """Name the cells that a study consists of, done or not: what its tables are made from."""
        path = f"{STUDIES}/{name}.json"
        record = {
            "study": dict(study),
            "cells": [{"key": c.key, "table": c.table, "path": c.path.as_posix()} for c in cells],
        }
        payload = json.dumps(record, indent=1).encode()
        try:
            if self.folder.read(path) == payload:
                return
        except FileNotFoundError:
            pass
        self.folder.write(path, payload)

    def studies(self) -> dict[str, dict[str, Any]]:
        """Study name -> its record, the most recently recorded last."""
        records = self.folder.files(STUDIES, ".json")
        return {
            path.stem: self._record(path)
            for path in sorted(records, key=lambda path: (records[path].modified_ns, path))
        }

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            return _manifest(json.loads(self._read(path)))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, str(error)) from error

    # --- all files ---

    def files(self) -> dict[Path, Info]:
        """All Parquet files of the tables, by their paths below the root."""
        return {path: info for name in TABLES for path, info in self.folder.files(name, ".parquet").items()}

    def checkpoints(self) -> list[Path]:
        """Checkpoints of trainings, relative to the root."""
        return list(self.folder.files("training", ".checkpoint"))

    def records(self) -> list[Path]:
        """What says which cells each study consists of, relative to the root."""
        return list(self.folder.files(STUDIES, ".json"))

    def check(self, path: Path) -> None:
        """Read a file of the store back; `Damaged` where a byte of it, or of the tensors beside it, is not what was written.

        Also where a cell was made from another version of a cell than the one that is there now.
        """
        if path.suffix == ".parquet":
            with self._undamaged(path):
                self._check_cell(path)
        elif path.suffix == ".json":
            self._record(path)
        elif not checkpoints.is_whole(self.folder, path):
            raise self._damaged(path, "its digest does not fit")

    def _check_cell(self, path: Path) -> None:
        table, meta = self.rows(path), self.metadata(path)
        made = key_of(*(meta[part] for part in ("table", "partition", "columns", "spec", "needs")))
        if not path.stem == meta["key"] == made:
            raise self._damaged(path, f"it holds cell {meta['key']}, of settings whose key is {made}")
        if table.schema.names != TABLES[meta["table"]].schema.names:
            raise self._damaged(path, "its columns are not the table's")
        if meta["artifact"] is not None and self._digest(path) != meta["artifact"]["sha256"]:
            raise self._damaged(tensors_path(path), "its digest is not the one recorded")
        for need, digest in meta.get("made_from", {}).items():
            if digest and self._tensors_digest(need) not in (None, digest):
                raise self._damaged(path, f"it was made from another '{need}' than the one that is there now")

    def _digest(self, path: Path) -> str:
        """Of the tensors beside a Parquet file, read piece by piece."""
        tensors = tensors_path(path)
        with self._found(tensors), self.folder.open(tensors) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, path: Path) -> None:
        """Delete a cell's files, the Parquet file first: what is there without it counts as not made."""
        for each in (path, tensors_path(path), failure_path(path)):
            self.folder.delete(each)

    def copy(self, cell: Cell, source: "Store") -> None:
        """Take a cell over from another store."""
        if source.metadata(cell.path)["artifact"]:
            self.folder.write(tensors_path(cell.path), source.folder.read(tensors_path(cell.path)))
        self.folder.write(cell.path, source.folder.read(cell.path))

    # --- is this storage shared? ---

    @contextmanager
    def probe(self) -> Iterator[str]:
        """The name of a file that lies in the root meanwhile."""
        name = locking.temporary(Path("probe")).name
        self.folder.write(name, b"writable")
        try:
            yield name
        finally:
            self.folder.delete(name)

    def sees_probe(self, name: str) -> bool:
        """Whether another machine's probe is in this root."""
        return self.folder.info(name) is not None


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
