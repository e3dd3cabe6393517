"""Exact nearest neighbours in l1, among images of other classes and among all of them: FAISS on every pair.

Pixels stay 0..255: a float32 sum of their differences is an exact integer while 255 * values < 2^24,
and longer images are summed in pieces, so that distances and ties are exact. The database is cut into
tiles small enough for the cache: streaming all of it for each query is bound by memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from harness.data.datasets import Images
from harness.errors import Failed, HarnessError
from harness.neighbours.classes import Classes, blocks_by_class, tiles

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
        """The nearer of two, the smallest id on ties: associative and commutative, in any order of shards."""
        tie = other.distance == self.distance
        better = (other.distance < self.distance) | (tie & (other.id < self.id))
        return Nearest(
            np.where(better, other.distance, self.distance),
            np.where(better, other.id, self.id),
        )

    def improve(self, which: np.ndarray, neighbours: "Nearest") -> None:
        """Merge the neighbours of some of the queries into their places."""
        merged = self.take(which).merge(neighbours)
        self.distance[which] = merged.distance
        self.id[which] = merged.id

    def improve_one(self, query: int, distance: np.ndarray, ids: np.ndarray) -> None:
        """Merge one query's distances to some images, at least one, into its place."""
        smallest = distance.min()
        neighbour = int(smallest), int(ids[distance == smallest].min())
        if neighbour < (self.distance[query], self.id[query]):
            self.distance[query], self.id[query] = neighbour


@dataclass(frozen=True)
class Work:
    """What a search did, in pairs of a query and a database image.

    ``pairs`` were looked at; ``kept[i]`` were left after level i of the filter, where there is one; ``exact``
    distances were computed.
    """

    pairs: int = 0
    kept: tuple[int, ...] = ()
    exact: int = 0

    def __add__(self, other: "Work") -> "Work":
        kept = zip_longest(self.kept, other.kept, fillvalue=0)
        return Work(self.pairs + other.pairs, tuple(map(sum, kept)), self.exact + other.exact)


@dataclass(frozen=True)
class Neighbours:
    """Both kinds of neighbour of each query, of another class and of any, and what it took to find them."""

    other_class: Nearest
    any_class: Nearest
    work: Work


@dataclass(frozen=True)
class NearestByClass:
    """Nearest neighbours so far among images of other classes, and among those of each query's own class."""

    other_class: Nearest
    own_class: Nearest

    @staticmethod
    def none(count: int) -> "NearestByClass":
        return NearestByClass(Nearest.none(count), Nearest.none(count))

    def of(self, own_class: bool) -> Nearest:
        return self.own_class if own_class else self.other_class

    def improve(self, which: np.ndarray, neighbours: "NearestByClass") -> None:
        """Merge the neighbours of some of the queries into their places."""
        self.other_class.improve(which, neighbours.other_class)
        self.own_class.improve(which, neighbours.own_class)

    def limit(self, own_class: bool) -> np.ndarray:
        """int64 [N]: an image of the own class, or of another, that lies farther is no query's neighbour."""
        if own_class:
            return np.minimum(self.own_class.distance, self.other_class.distance)
        return self.other_class.distance

    def neighbours(self, work: Work) -> Neighbours:
        return Neighbours(self.other_class, self.other_class.merge(self.own_class), work)


def search_tiled(queries: Images, database: Images, same: bool, part: slice = ALL) -> Neighbours:
    """Nearest database image of another class, and of any class, for every query: all pairs, exact.

    Args:
        queries, database: pixels uint8 [N, C, H, W]; the database in ascending ids.
        same: both are of one split, so that a query's own id is not its neighbour.
        part: positions of the database to look at.
    """
    nearest = NearestByClass.none(len(queries.ids))
    flat_queries, flat = rows_of(queries), rows_of(database)
    classes = Classes.of(database.labels)
    ranges = classes.ranges(part)
    tile_size = max(1, TILE_BYTES // (4 * flat.shape[1]))
    pairs = 0
    for label, block in blocks_by_class(queries.labels, QUERY_BLOCK):
        block_queries = flat_queries[block].astype(np.float32)
        for one in ranges:
            own_class = one.label == label
            for tile in tiles(one.rows, tile_size):
                positions = classes.order[tile]
                ids = database.ids[positions]
                measured = distances(block_queries, flat[positions].astype(np.float32))
                if same and own_class:
                    measured[queries.ids[block][:, None] == ids] = np.inf
                nearest.of(own_class).improve(block, _nearest(measured, ids))
                pairs += measured.size
    return nearest.neighbours(Work(pairs, (), pairs))


def rows_of(images: Images) -> np.ndarray:
    """One image a row: uint8 [N, values]."""
    return images.pixels.reshape(len(images.ids), -1)


def _nearest(measured: np.ndarray, ids: np.ndarray) -> Nearest:
    """The nearest in each row of a matrix of distances, inf where none; ``ids`` ascend."""
    first = measured.argmin(axis=1)  # the first of equals: the smallest id
    smallest = measured[np.arange(len(measured)), first]
    exists = np.isfinite(smallest)
    nearest = Nearest.none(len(measured))
    nearest.distance[exists] = smallest[exists].astype(np.int64)
    nearest.id[exists] = ids[first[exists]]
    return nearest


# --- FAISS -----------------------------------------------------------------------------------------


def _faiss() -> Any:
    """The module; HarnessError where it can't be loaded. Its GPU build says so by a RuntimeError."""
    try:
        import faiss
    except (ImportError, RuntimeError, OSError) as error:
        raise HarnessError(
            f"FAISS can't be loaded: {Failed.of(error).reason} (install the harness with [cpu] or [gpu]; "
            "faiss-gpu needs nvidia-cuda-runtime-cu12, nvidia-cublas-cu12 and nvidia-curand-cu12)"
        ) from error
    return faiss


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
    faiss = _faiss()
    queries, tile = np.ascontiguousarray(queries), np.ascontiguousarray(tile)
    assert out.dtype == np.float32 and out.flags.c_contiguous and out.shape == (len(queries), len(tile))
    faiss.pairwise_extra_distances(
        queries.shape[1],
        len(queries),
        faiss.swig_ptr(queries),
        len(tile),
        faiss.swig_ptr(tile),
        faiss.METRIC_L1,
        0.0,
        faiss.swig_ptr(out),
    )
    return out


def hamming(queries: np.ndarray, tile: np.ndarray, out: np.ndarray) -> None:
    """Number of bits that differ: uint8 codes [Q, B], [T, B], C-contiguous, to ``out`` int32 [Q, T]."""
    faiss = _faiss()
    assert out.dtype == np.int32 and out.flags.c_contiguous and out.shape == (len(queries), len(tile))
    assert queries.shape[1] == tile.shape[1] and queries.flags.c_contiguous and tile.flags.c_contiguous
    faiss.hammings(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(tile),
        len(queries),
        len(tile),
        queries.shape[1],
        faiss.swig_ptr(out),
    )


def gpu_distances() -> Callable[[Any, Any], Any] | None:
    """FAISS's float32 l1 distances of all pairs of rows of two CUDA tensors; None where it has no GPU."""
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        return None
    import faiss.contrib.torch_utils  # lets FAISS take tensors

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(0)  # else 1.5 GB of every worker's GPU: all pairs of tensors there need none
    return lambda queries, tile: faiss.pairwise_distance_gpu(resources, queries, tile, metric=faiss.METRIC_L1)
