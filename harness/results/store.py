"""Where results live: a cell's path follows from what produced it, and a file that is there is done.

A cell is one Parquet file and, where it has tensors (weights, adversarial images), one safetensors file below
``tensors/``, written first and named with its digest in the Parquet file's metadata. Both appear whole or not
at all (``storage``), so a reader never sees half a cell and any command may be run again at any time.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import Failed, HarnessError
from harness.results import cell_file, locking, studies
from harness.results.cells import Cell, failure_path, tensors_path
from harness.results.damage import Damaged, damaged, must_exist, must_parse, read
from harness.results.records import SCHEMA_VERSION, SCHEMAS
from harness.results.storage import CONNECTIONS, Folder, Info

_ROOT_FILE = "harness.json"
_FOOTER_BYTES = 1 << 16  # of a Parquet file's end: more than the metadata of any cell seen


@dataclass(frozen=True)
class Store:
    """The results root: a local folder, or a URI as `Folder.at` takes it. Paths of files are relative to it.

    Any method may raise HarnessError: the storage refuses, or a file is damaged.
    """

    place: Path | str

    def __post_init__(self) -> None:
        # A relative path means the driver's folder on workers, too.
        object.__setattr__(self, "place", Folder.at(self.place).place)

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

    # --- the root ---

    def open(self) -> "Store":
        """Make the root where there is none; HarnessError if it can't be written or is another version's."""
        self.folder.check()
        if self.folder.info(_ROOT_FILE) is None:
            marker = {"schema_version": SCHEMA_VERSION, "id": uuid.uuid4().hex}
            self.folder.write(_ROOT_FILE, json.dumps(marker).encode())
        with self.probe():
            pass
        self.check_version()
        return self

    def check_version(self) -> None:
        """Raise HarnessError where the root was written by an incompatible version."""
        self.folder.check()
        marker = self.folder.locate(_ROOT_FILE)
        try:
            version = json.loads(self.folder.read(_ROOT_FILE))["schema_version"]
        except FileNotFoundError:
            raise HarnessError(
                f"'{self.folder}' holds no results: run a study first, or name its folder with --results"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise HarnessError(
                f"'{marker}' cannot be read ({error}): is '{self.folder}' a results folder?"
            ) from error
        if version != SCHEMA_VERSION:
            raise HarnessError(
                f"the results in '{self.folder}' have schema version {version}, this harness reads and "
                f"writes {SCHEMA_VERSION}: choose another folder with --results, or the harness version that "
                "wrote them. Nothing was changed."
            )

    def identity(self) -> str:
        """What tells these results from others, wherever they are moved."""
        self.check_version()
        return str(json.loads(self.folder.read(_ROOT_FILE))["id"])

    @contextmanager
    def probe(self) -> Iterator[str]:
        """The name of a file that lies in the root meanwhile: is this storage shared?"""
        name = locking.temporary(Path("probe")).name
        self.folder.write(name, b"writable")
        try:
            yield name
        finally:
            self.folder.delete(name)

    def sees_probe(self, name: str) -> bool:
        """Whether another machine's probe is in this root."""
        return self.folder.info(name) is not None

    # --- which cells are there ---

    def is_done(self, cell: Cell) -> bool:
        """The cell's file is whole, its tensors of the recorded size; their bytes are checked on reading."""
        return self.is_whole(cell.path, cell.key)

    def is_whole(self, path: Path, key: str) -> bool:
        """Whether the cell with this key and path is done, as ``is_done`` says of one that is planned."""
        try:
            meta = self.metadata(path)
        except Damaged:
            return False
        if meta["key"] != key:
            return False
        if meta["artifact"] is None:
            return True
        tensors = self.folder.info(tensors_path(path))
        return tensors is not None and tensors.size == meta["artifact"]["bytes"]

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are not done."""
        cells = list(cells)
        if self.folder.local is not None:
            return [cell for cell in cells if not self.is_done(cell)]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            done = list(threads.map(self.is_done, cells))
        return [cell for cell, is_done in zip(cells, done, strict=True) if not is_done]

    def files(self) -> dict[Path, Info]:
        """All Parquet files of the tables, by their paths below the root."""
        return {path: info for name in SCHEMAS for path, info in self.folder.files(name, ".parquet").items()}

    def modified(self, path: Path | str) -> float:
        """When the file at a path below the root was written, in seconds since the epoch."""
        with must_exist(self.folder, path):
            if (info := self.folder.info(path)) is None:
                raise FileNotFoundError
            return info.modified_ns / 1e9

    # --- writing cells ---

    def write(
        self,
        cell: Cell,
        rows: cell_file.Rows,
        tensors: Mapping[str, np.ndarray] | None = None,
        **facts: Any,
    ) -> None:
        """Write a finished cell: ``rows`` by column, constants filled in; ``facts`` are hardware, versions.

        A cell that is done stays as it is: another driver was faster. Raises KeyError/ArrowInvalid for rows
        that don't fit the table's schema (our mistake), HarnessError for a full disk, Moved where code from
        outside is no longer what the cell was planned with.
        """
        if self.is_done(cell):
            return
        if code := cell.spec.get("code"):
            from harness import extensions  # settings classes, which reading results must not need

            extensions.must_be(code)
        made_from = {need.path.as_posix(): self.tensors_digest(need.path) for need in cell.needs}
        artifact = None if tensors is None else self._write_tensors(cell, tensors)
        more = {"made_from": made_from, "artifact": artifact, "facts": facts}
        self.folder.write(cell.path, cell_file.encode(cell, rows, more))
        self.folder.delete(failure_path(cell.path))

    def _write_tensors(self, cell: Cell, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        from safetensors.numpy import save

        payload = save({name: np.asarray(value, order="C") for name, value in tensors.items()})
        self.folder.write(tensors_path(cell.path), payload)
        return {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}

    def copy(self, cell: Cell, source: "Store") -> None:
        """Take a cell over from another store."""
        if source.metadata(cell.path)["artifact"]:
            self.folder.write(tensors_path(cell.path), source.folder.read(tensors_path(cell.path)))
        self.folder.write(cell.path, source.folder.read(cell.path))

    def remove(self, path: Path) -> None:
        """Delete a cell's files, the Parquet file first: what is there without it counts as not made."""
        for each in (path, tensors_path(path), failure_path(path)):
            self.folder.delete(each)

    # --- reading cells ---

    def read(self, cell: Cell) -> pa.Table:
        """The cell's rows, page checksums verified; HarnessError names a damaged file."""
        return self.rows(cell.path)

    def rows(self, path: Path | str) -> pa.Table:
        """The rows of the file at a path below the root, checked as by ``read``."""
        content = read(self.folder, path)
        with must_parse(self.folder, path):
            return cell_file.decode(content)

    def metadata(self, path: Path | str) -> dict[str, Any]:
        """What made the file at a path below the root: key, table, partition, columns, spec, needs, facts."""
        with must_exist(self.folder, path), self.folder.open(path) as file:
            size = file.size()
            end = file.read_at(min(size, _FOOTER_BYTES), max(0, size - _FOOTER_BYTES))
            if size > len(end) and len(end) < cell_file.footer_bytes(end):
                end = file.read_at(size, 0)
        with must_parse(self.folder, path):
            meta = cell_file.describe(end)
            if meta["schema_version"] != SCHEMA_VERSION:
                raise Damaged(
                    f"'{self.folder.locate(path)}' has schema version {meta['schema_version']}, "
                    f"expected {SCHEMA_VERSION}"
                )
            return meta

    def tensors(self, cell: Cell) -> dict[str, np.ndarray]:
        """The cell's tensors, their digest verified; HarnessError names a damaged file."""
        return self.tensors_at(cell.path)

    def has_tensors(self, cell: Path) -> bool:
        """Whether the cell whose Parquet file is at a path has tensors beside it."""
        return self.folder.info(tensors_path(cell)) is not None

    def tensors_at(self, cell: Path) -> dict[str, np.ndarray]:
        """The tensors of the cell whose Parquet file is at a path below the root, as by ``tensors``."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = tensors_path(cell)
        payload = read(self.folder, path)
        if hashlib.sha256(payload).hexdigest() != self.metadata(cell)["artifact"]["sha256"]:
            raise damaged(self.folder, path, "its digest is not the one recorded")
        try:
            return load(payload)
        except SafetensorError as error:
            raise damaged(self.folder, path, f"no safetensors file: {error}") from error

    def tensors_digest(self, path: Path | str) -> str | None:
        """Of a cell's tensors as they are now; made again on another machine they may have other last bits
        under the same key. None where there are none.
        """
        with suppress(Damaged):
            artifact = self.metadata(path)["artifact"]
            return artifact and str(artifact["sha256"])
        return None

    # --- studies: see `studies` ---

    def record_study(
        self,
        name: str,
        study: Mapping[str, Any],
        cells: Mapping[str, list[Cell]],
        about: Mapping[str, Any],
        planned: list[dict[str, Any]],
    ) -> None:
        studies.record(self.folder, name, study, cells, about, planned)

    def studies(self) -> dict[str, dict[str, Any]]:
        return studies.recorded(self.folder)

    def record_failure(self, cell: Cell, failure: Failed) -> None:
        studies.record_failure(self.folder, cell, failure)

    def failure(self, cell: Cell) -> Failed | None:
        return studies.failure(self.folder, cell)

    def failures(self) -> dict[str, dict[str, Any]]:
        return studies.failures(self.folder)
