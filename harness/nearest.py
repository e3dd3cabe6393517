"""Exact nearest neighbours in l1, among the images of other classes and among all of them: FAISS on every pair.

Pixels stay 0..255: a float32 sum of their differences is an exact integer while 255 * values < 2^24,
and longer images are summed in pieces, so that distances and ties are exact. The database is cut into
tiles small enough for the cache: streaming all of it for each query is bound by memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.datasets import Images

QUERY_BLOCK = 256  # queries compared with a tile at once
TILE_BYTES = 1 << 19  # of float32 database rows: half of a usual L2 cache
EXACT_VALUES = 65_536  # 255 * 65,536 < 2^24: a float32 sum over so many values is exact
FAR = np.iinfo(np.int64).max
ALL = slice(None)


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbour so far of each query: int64 [N] summed 0..255 differences and ids; FAR where none."""

    distance: np.ndarray
    id: np.ndarray

    @staticmethod
    def none(count: int) -> "Nearest":
        return Nearest(np.full(count, FAR), np.full(count, FAR))

    def take(self, which: np.ndarray) -> "Nearest":
        return Nearest(self.distance[which], self.id[which])

    def merge(self, other: "Nearest") -> "Nearest":
        """The nearer of two, the smallest id on ties: associative and commutative, so shards may come in any order."""
        better = (other.distance < self.distance) | ((other.distance == self.distance) & (other.id < self.id))
        return Nearest(np.where(better, other.distance, self.distance), np.where(better, other.id, self.id))

    def improve(self, which: np.ndarray, found: "Nearest") -> None:
        """Merge what was found for some of the queries into their places."""
        merged = self.take(which).merge(found)
        self.distance[which], self.id[which] = merged.distance, merged.id


@dataclass(frozen=True)
class Work:
    """What a search did, in pairs of a query and a database image: 0 or more filter levels, then exact distances.

    ``pairs`` were looked at; ``kept[i]`` were left after level i of the filter; ``exact`` distances were computed.
    """

    pairs: int = 0
    kept: tuple[int, ...] = ()
    exact: int = 0

    def __add__(self, other: "Work") -> "Work":
        kept = [*self.kept, *[0] * (len(other.kept) - len(self.kept))]
        for level, count in enumerate(other.kept):
            kept[level] += count
        return Work(self.pairs + other.pairs, tuple(kept), self.exact + other.exact)


@dataclass(frozen=True)
class Found:
    """Both kinds of neighbour of each query, of another class and of any, and what it took to find them."""

    other_class: Nearest
    any_class: Nearest
    work: Work


@dataclass(frozen=True)
class Classes:
    """The database's images in order of class: the images of other classes are then two slices, and need no selector.

    ``order`` int64 [N]: positions sorted by class, ascending in each. Class i has ``labels[i]`` and the
    rows ``starts[i]`` to ``starts[i + 1]`` of the order.
    """

    labels: np.ndarray
    starts: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(labels: np.ndarray) -> "Classes":
        order = np.argsort(labels, kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        return Classes(found, np.append(starts, len(labels)), order)

    def slices(self, part: slice) -> list[tuple[int, slice]]:
        """(label, rows) of each class's images at the positions ``part``."""
        first, last, _ = part.indices(len(self.order))
        found = []
        for label, low, high in zip(
            self.labels.tolist(), self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True
        ):
            start, stop = (low + int(np.searchsorted(self.order[low:high], end)) for end in (first, last))
            if start < stop:
                found.append((label, slice(start, stop)))
        return found


def around(slices: list[tuple[int, slice]], label: int) -> tuple[list[slice], slice]:
    """The rows of all classes but one, in as few slices as they make, and the rows of that one."""
    foreign, kin = [slice(0, 0)], slice(0, 0)
    for of, rows in slices:
        if of == label:
            kin = rows
        elif foreign[-1].stop == rows.start:
            foreign[-1] = slice(foreign[-1].start, rows.stop)
        else:
            foreign.append(rows)
    return foreign, kin


def blocks_by_class(labels: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(label, positions) of blocks of at most ``size`` images of one class."""
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), size):
            yield label, members[start : start + size]


def tiles(rows: slice, size: int) -> Iterator[slice]:
    """A slice cut into slices of at most ``size`` rows."""
    return (slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))


def search_tiled(queries: Images, database: Images, same: bool, part: slice = ALL) -> Found:
    """Nearest database image of another class, and of any class, for every query: all pairs, exact.

    Args:
        queries, database: pixels uint8 [N, C, H, W]; the database in ascending ids.
        same: both are of one split, so that a query's own id is not its neighbour.
        part: positions of the database to look at.
    """
    other, own = Nearest.none(len(queries.ids)), Nearest.none(len(queries.ids))
    flat_queries, flat = rows_of(queries), rows_of(database)
    classes, size = Classes.of(database.labels), max(1, TILE_BYTES // (4 * flat.shape[1]))
    pairs = 0
    for query_label, block in blocks_by_class(queries.labels, QUERY_BLOCK):
        block_queries = flat_queries[block].astype(np.float32)
        for label, rows in classes.slices(part):
            kind = own if label == query_label else other
            for tile in tiles(rows, size):
                at = classes.order[tile]
                measured = distances(block_queries, flat[at].astype(np.float32))
                if same and kind is own:
                    measured[queries.ids[block][:, None] == database.ids[at][None, :]] = np.inf
                kind.improve(block, _nearest(measured, database.ids[at]))
                pairs += measured.size
    return Found(other, other.merge(own), Work(pairs, (), pairs))


def rows_of(images: Images) -> np.ndarray:
    """One image a row: uint8 [N, values]."""
    return images.pixels.reshape(len(images.ids), -1)


def _nearest(measured: np.ndarray, ids: np.ndarray) -> Nearest:
    """The nearest in each row of a matrix of distances, inf where none; ``ids`` ascend."""
    first = measured.argmin(axis=1)  # the first of equals: the smallest id
    nearest = measured[np.arange(len(measured)), first]
    found = np.isfinite(nearest)
    here = Nearest.none(len(measured))
    here.distance[found], here.id[found] = nearest[found].astype(np.int64), ids[first[found]]
    return here


def distances(queries: np.ndarray, tile: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """l1 distances [Q, T] of float32 rows of integers: exact for rows of 0..255, however long.

    ``out``: contiguous float32 [Q, T] to hold them, of rows of at most EXACT_VALUES.
    """
    if queries.shape[1] <= EXACT_VALUES:
        return _sums(queries, tile, np.empty((len(queries), len(tile)), np.float32) if out is None else out)
    assert out is None, "sums past 2^24 need a float64"
    total = np.zeros((len(queries), len(tile)))
    for piece in tiles(slice(0, queries.shape[1]), EXACT_VALUES):
        total += distances(queries[:, piece], tile[:, piece])
    return total


def _sums(queries: np.ndarray, tile: np.ndarray, out: np.ndarray) -> np.ndarray:
    """FAISS's float32 l1 distances of all pairs."""
    import faiss

    queries, tile = np.ascontiguousarray(queries), np.ascontiguousarray(tile)
    assert out.dtype == np.float32 and out.flags.c_contiguous and out.shape == (len(queries), len(tile))
    faiss.pairwise_extra_distances(  # type: ignore[attr-defined]
        queries.shape[1], len(queries), faiss.swig_ptr(queries), len(tile), faiss.swig_ptr(tile),
        faiss.METRIC_L1, 0.0, faiss.swig_ptr(out),
    )  # fmt: skip
    return out


def hamming(queries: np.ndarray, tile: np.ndarray, out: np.ndarray) -> None:
    """Number of bits that differ: uint8 codes [Q, B], [T, B], C-contiguous, to ``out`` int32 [Q, T]."""
    import faiss

    assert out.dtype == np.int32 and out.flags.c_contiguous and out.shape == (len(queries), len(tile))
    assert queries.shape[1] == tile.shape[1] and queries.flags.c_contiguous and tile.flags.c_contiguous
    faiss.hammings(  # type: ignore[attr-defined]
        faiss.swig_ptr(queries), faiss.swig_ptr(tile), len(queries), len(tile), queries.shape[1], faiss.swig_ptr(out)
    )  # fmt: skip


def gpu_distances() -> Callable[[Any, Any], Any] | None:
    """FAISS's float32 l1 distances of all pairs of rows of two CUDA tensors; None where this FAISS has no GPU."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        return None
    import faiss.contrib.torch_utils  # lets FAISS take tensors

    resources = faiss.StandardGpuResources()
    return lambda queries, tile: faiss.pairwise_distance_gpu(resources, queries, tile, metric=faiss.METRIC_L1)
