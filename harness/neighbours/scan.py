"""The filtered search of ``filter`` by a kernel in C, on machines that have a compiler: the same, sooner.

numpy and FAISS look at pairs in batches, for which rows are copied together and turned into floats. The
kernel (``scan.c``) looks at a pair's code, its levels and its pixels where they lie, and lowers the limit
at once. It is compiled for this machine's instructions in less than a second by each process that searches,
and leaves no file. Where that fails ``filter`` takes its other path.
"""

import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.datasets import Images
from harness.neighbours.classes import RowsByClass
from harness.neighbours.nearest import NearestByClass, Work, rows_of
from harness.neighbours.partition import Index

TILE = 256  # rows whose codes stay in the cache, a multiple of eight
LARGEST_SUM = 2**31 - 1  # of an image's pixels: the kernel sums them in 32 bits
COMPILE_S = 60  # more than any compiler needs

_Pointer = ctypes.c_void_p
_Integer = ctypes.c_int64


class _Level(ctypes.Structure):
    _fields_ = [("rows", _Pointer), ("queries", _Pointer), ("blocks", _Integer), ("value_bytes", _Integer)]


class _Database(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("codes", "errors", "order", "ids", "pixels")),
        *((name, _Integer) for name in ("words", "values", "step", "level_count")),
        ("levels", ctypes.POINTER(_Level)),
    ]


class _Queries(ctypes.Structure):
    _fields_ = [
        ("count", _Integer),
        *((name, _Pointer) for name in ("codes", "errors", "pixels", "ids")),
        ("distance", _Pointer * 2),
        ("id", _Pointer * 2),
    ]


@cache
def kernel() -> Any:
    """``search_rows`` of scan.c, compiled for this machine; None where there is no C compiler that can."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    source = resources.files("harness.neighbours") / "scan.c"
    with tempfile.TemporaryDirectory() as folder, resources.as_file(source) as path:
        library = Path(folder) / "scan.so"
        options = ["-O3", "-march=native", f"-DTILE={TILE}", "-shared", "-fPIC", "-o", str(library)]
        try:
            command = [*compiler, *options, str(path)]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_S)
            search_rows = ctypes.CDLL(str(library)).search_rows
        except (OSError, subprocess.SubprocessError):
            return None
    search_rows.restype = None
    search_rows.argtypes = [
        ctypes.POINTER(_Database),
        ctypes.POINTER(_Queries),
        *(_Integer,) * 3,
        *(_Pointer,) * 2,
    ]
    return search_rows


def available(values: int) -> bool:
    """Whether this machine has the kernel, for images of so many values."""
    return 255 * values <= LARGEST_SUM and kernel() is not None


class Database:
    """A database and its index as the kernel reads them."""

    def __init__(self, images: Images, index: Index) -> None:
        flat, order = rows_of(images), index.classes.order
        self._index = index
        self._arrays = {
            "codes": _array(index.codes, np.uint8),
            "errors": _array(index.errors, np.int32),
            "order": _array(order, np.int64),
            "ids": _array(images.ids[order], np.int64),
            "pixels": _array(flat, np.uint8),
        }
        self._level_rows = [np.ascontiguousarray(level.rows) for level in index.levels]
        self._sizes = {"words": index.codes.shape[1] // 8, "values": flat.shape[1], "step": index.grid.step}
        self._scratch = np.empty(index.codes.shape[1] * TILE, np.uint8)

    def search(
        self, pixels: np.ndarray, ids: np.ndarray | None, rows: RowsByClass
    ) -> tuple[NearestByClass, Work]:
        """What is nearest to queries uint8 [Q, d] of one class, among some rows.

        ``ids`` int64 [Q] where the queries lie in the database too, and are not their own neighbours.
        """
        nearest = NearestByClass.none(len(pixels))
        both = nearest.other_class, nearest.own_class
        codes = self._index.grid.encode(pixels)
        pixels, ids = _array(pixels, np.uint8), None if ids is None else _array(ids, np.int64)
        projected = [
            level.partition.project(pixels).astype(rows.dtype)
            for level, rows in zip(self._index.levels, self._level_rows, strict=True)
        ]
        levels = [
            _Level(_address(rows), _address(queries), queries.shape[1], queries.itemsize)
            for rows, queries in zip(self._level_rows, projected, strict=True)
        ]
        database = _Database(
            **{name: _address(array) for name, array in self._arrays.items()},
            **self._sizes,
            level_count=len(levels),
            levels=(_Level * len(levels))(*levels),
        )
        queries = _Queries(
            len(pixels),
            *map(_address, (codes.rows, codes.errors, pixels, ids)),
            (_Pointer * 2)(*(_address(one.distance) for one in both)),
            (_Pointer * 2)(*(_address(one.id) for one in both)),
        )
        kept = np.zeros(2 + len(levels), np.int64)
        looked_at = [*((part, False) for part in rows.other_classes), (rows.own_class, True)]
        out = _address(self._scratch), _address(kept)
        for part, own_class in looked_at:
            kernel()(database, queries, part.start, part.stop, own_class, *out)
        pairs = len(pixels) * sum(part.stop - part.start for part, _ in looked_at)
        return nearest, Work(pairs, tuple(kept[:-1].tolist()), int(kept[-1]))


def _array(array: np.ndarray, dtype: type) -> np.ndarray:
    """The array as the kernel reads it: itself, where it is so already."""
    return np.ascontiguousarray(array, dtype)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
