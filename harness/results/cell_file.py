"""A cell's Parquet file as bytes: its rows, what made them, and a digest of the whole file inside the file.

Page checksums leave headers and footers of Parquet, half of a small file, unguarded. So a digest of all bytes
is taken with blanks in its own place, which is plain text in the footer.

Nothing here reads with Arrow's threads: one that drops the last reference to memory of Python's while the
interpreter ends brings the whole process down, after its work.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.results.cells import Cell
from harness.results.records import SCHEMA_VERSION, SCHEMAS, TableSchema

_META = b"harness"
_BLANK = "0" * 64  # stands in the metadata until the file is sealed
_FACTS = {"key", "schema_version", "table", "partition", "columns", "spec", "needs", "artifact"}

Rows = Mapping[str, "np.ndarray | list[Any]"]


def encode(cell: Cell, rows: Rows, more: Mapping[str, Any]) -> bytes:
    """The file of a finished cell: ``rows`` by column, constants filled in; ``more`` goes beside the spec.

    Raises KeyError/ArrowInvalid for rows that don't fit the table's schema (our mistake).
    """
    table_schema = SCHEMAS[cell.table]
    schema = table_schema.schema
    described = {_META: json.dumps(_described(cell, more)).encode()}
    table = pa.Table.from_arrays(_columns(cell, rows, table_schema), schema=schema.with_metadata(described))
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[name for name in schema.names if name not in floats],
        use_byte_stream_split=floats,
    )
    return _seal(sink.getvalue().to_pybytes())


def _columns(cell: Cell, rows: Rows, table: TableSchema) -> list[pa.Array]:
    length = len(next(iter(rows.values())))
    constant = {"cell": cell.key, **cell.columns}
    columns = []
    for field in table.schema:
        name = field.name
        if name in rows:
            values = rows[name]
        else:
            absent = name not in constant and table.is_optional(name)
            values = [None if absent else constant[name]] * length
        columns.append(pa.array(values, type=field.type))
    return columns


def _described(cell: Cell, more: Mapping[str, Any]) -> dict[str, Any]:
    """What made the cell; the digest comes last."""
    return {
        "key": cell.key,
        "schema_version": SCHEMA_VERSION,
        "table": cell.table,
        "partition": dict(cell.partition),
        "columns": dict(cell.columns),
        "spec": dict(cell.spec),
        "needs": [need.key for need in cell.needs],
        **more,
        "digest": _BLANK,
    }


def decode(content: bytes) -> pa.Table:
    """The rows of a file; ValueError, or what pyarrow raises, where a byte is not what was written."""
    # Without checksums a flipped byte is a wrong number and no error. ParquetFile reads one file, no hive
    # folders.
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False) as file:
        table: pa.Table = file.read(use_threads=False)
    digest = json.loads((table.schema.metadata or {})[_META])["digest"]
    if not re.fullmatch("[0-9a-f]{64}", digest) or not _is_whole(content, digest):
        raise ValueError("its digest is not the one recorded")
    return table


def describe(end: bytes) -> dict[str, Any]:
    """What made a file, from its footer in its last bytes; ValueError and others where that can't be read."""
    described: dict[str, Any] = json.loads((pq.read_schema(pa.BufferReader(end)).metadata or {})[_META])
    if not isinstance(described, dict) or not described.keys() >= _FACTS:
        raise ValueError("what made it is not recorded in it")
    return described


def footer_bytes(end: bytes) -> int:
    """Bytes of a file's footer, from its last 8 bytes."""
    return int.from_bytes(end[-8:-4], "little") + 8


def _seal(payload: bytes) -> bytes:
    """The file with its digest in the one place where the blank stood."""
    assert payload.count(_BLANK.encode()) == 1, "the place of the digest is not clear"
    return payload.replace(_BLANK.encode(), hashlib.sha256(payload).hexdigest().encode())


def _is_whole(payload: bytes, digest: str) -> bool:
    """Whether every byte is what was sealed with this digest."""
    blanked = payload.replace(digest.encode(), _BLANK.encode())
    return hashlib.sha256(blanked).hexdigest() == digest
