"""Whether files are what was written: every one read back, and held against what it says of itself."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.results import checkpoints, studies
from harness.results.cells import key_of, tensors_path
from harness.results.damage import Damaged, damaged, must_exist, must_parse
from harness.results.records import SCHEMAS
from harness.results.store import Store


def verify(store: Store) -> Iterator[tuple[Path, str | None]]:
    """Read every file back, checkpoints and studies' records as well.

    Yields (path below the root, None when whole, else what is wrong).
    """
    records = store.folder.files(studies.STUDIES, ".json")
    for path in [*store.files(), *checkpoints.paths(store.folder), *records]:
        try:
            check(store, path)
        except Damaged as error:
            yield path, str(error)
        else:
            yield path, None


def check(store: Store, path: Path) -> None:
    """Read a file of the store back; `Damaged` where a byte of it, or of its tensors, is another one.

    Also where a cell was made from another version of a cell than the one that is there now.
    """
    folder = store.folder
    if path.suffix == ".parquet":
        with must_parse(folder, path):
            _check_cell(store, path)
    elif path.suffix == ".json":
        studies.read_record(folder, path)
    elif not checkpoints.is_whole(folder, path):
        raise damaged(folder, path, "its digest does not fit")


def _check_cell(store: Store, path: Path) -> None:
    table, meta = store.rows(path), store.metadata(path)
    made = key_of(*(meta[part] for part in ("table", "partition", "columns", "spec", "needs")))
    if not path.stem == meta["key"] == made:
        raise damaged(store.folder, path, f"it holds cell {meta['key']}, of settings whose key is {made}")
    if table.schema.names != SCHEMAS[meta["table"]].schema.names:
        raise damaged(store.folder, path, "its columns are not the table's")
    if meta["artifact"] is not None and _tensors_digest(store, path) != meta["artifact"]["sha256"]:
        raise damaged(store.folder, tensors_path(path), "its digest is not the one recorded")
    for need, digest in meta["made_from"].items():
        if digest and store.tensors_digest(need) not in (None, digest):
            reason = f"it was made from another '{need}' than the one that is there now"
            raise damaged(store.folder, path, reason)


def _tensors_digest(store: Store, path: Path) -> str:
    """Of the tensors of a Parquet file's cell, read piece by piece."""
    tensors = tensors_path(path)
    with must_exist(store.folder, tensors), store.folder.open(tensors) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
