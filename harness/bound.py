"""The bound of every image (paper III-A): its exact l1 distance to the nearest image of another class.

sigma_i = d_i / (2 k) (eq. 3), d_i the mean absolute pixel difference (eq. 2). Two kinds of neighbour
are kept: of another class, which the text defines, and of any class, which Table II's numbers fit.

Pixels stay 0..255: a float32 sum of their differences is an exact integer while 255 * values < 2^24,
and longer images are summed in pieces, so that distances and ties are exact. The distances come from
FAISS on tiles small enough for the cache: streaming the whole database for each query is bound by memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.datasets import Images
from harness.errors import HarnessError

QUERY_BLOCK = 256  # queries compared with a tile at once
TILE_BYTES = 1 << 19  # of float32 database rows: half of a usual L2 cache
EXACT_VALUES = 65_536  # 255 * 65,536 < 2^24: a float32 sum over so many values is exact
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbour so far of each query: int64 [N] summed 0..255 differences and ids; _FAR where none."""

    distance: np.ndarray
    id: np.ndarray

    @staticmethod
    def none(count: int) -> "Nearest":
        return Nearest(np.full(count, _FAR), np.full(count, _FAR))

    def merge(self, other: "Nearest") -> "Nearest":
        """The nearer of two, the smallest id on ties: associative and commutative, so shards may come in any order."""
        better = (other.distance < self.distance) | ((other.distance == self.distance) & (other.id < self.id))
        return Nearest(np.where(better, other.distance, self.distance), np.where(better, other.id, self.id))


def search(queries: Images, database: Images, same: bool) -> tuple[Nearest, Nearest]:
    """Nearest database image of another class, and of any class, for every query: exact.

    Args:
        queries, database: pixels uint8 [N, C, H, W]; the database in ascending ids.
        same: both are of one split, so that a query's own id is not its neighbour.
    """
    other, own = Nearest.none(len(queries.ids)), Nearest.none(len(queries.ids))
    slices = [(label, np.flatnonzero(database.labels == label)) for label in np.unique(database.labels)]
    flat_queries, flat = queries.pixels.reshape(len(queries.ids), -1), database.pixels.reshape(len(database.ids), -1)
    for query_label in np.unique(queries.labels):
        members = np.flatnonzero(queries.labels == query_label)
        for start in range(0, len(members), QUERY_BLOCK):
            block = members[start : start + QUERY_BLOCK]
            block_queries = flat_queries[block].astype(np.float32)
            for label, rows in slices:
                kind = own if label == query_label else other
                found = _nearest_in(block_queries, queries.ids[block], flat, database.ids, rows, exclude_self=same and kind is own)
                merged = Nearest(kind.distance[block], kind.id[block]).merge(found)
                kind.distance[block], kind.id[block] = merged.distance, merged.id
    return other, other.merge(own)


def _nearest_in(
    queries: np.ndarray, query_ids: np.ndarray, flat: np.ndarray, ids: np.ndarray, rows: np.ndarray, exclude_self: bool
) -> Nearest:
    """Nearest of ``flat[rows]`` (uint8, ascending ids) for each of some float32 queries."""
    best = Nearest.none(len(queries))
    step = max(1, TILE_BYTES // (4 * flat.shape[1]))
    for start in range(0, len(rows), step):
        tile = rows[start : start + step]
        distances = _distances(queries, flat[tile].astype(np.float32))
        if exclude_self:
            distances[query_ids[:, None] == ids[tile][None, :]] = np.inf
        first = distances.argmin(axis=1)  # the first of equals: the smallest id
        nearest = distances[np.arange(len(queries)), first]
        found = np.isfinite(nearest)
        here = Nearest.none(len(queries))
        here.distance[found], here.id[found] = nearest[found].astype(np.int64), ids[tile][first[found]]
        best = best.merge(here)
    return best


def _distances(queries: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """l1 distances [Q, T] as exact integers in floats."""
    import faiss

    total: np.ndarray | None = None
    for start in range(0, queries.shape[1], EXACT_VALUES):
        q, t = (np.ascontiguousarray(x[:, start : start + EXACT_VALUES]) for x in (queries, tile))
        part = np.empty((len(q), len(t)), dtype=np.float32)
        faiss.pairwise_extra_distances(  # type: ignore[attr-defined]
            q.shape[1], len(q), faiss.swig_ptr(q), len(t), faiss.swig_ptr(t), faiss.METRIC_L1, 0.0, faiss.swig_ptr(part)
        )
        total = part if total is None and queries.shape[1] <= EXACT_VALUES else part.astype(np.float64) + (0 if total is None else total)
    assert total is not None, "images have no pixels"
    return total


# --- sharding: what a worker is given and how the pieces come together -----------------------------


@dataclass(frozen=True)
class Shard:
    """One piece of work: some queries against a contiguous part of the database."""

    queries: np.ndarray  # positions in the query split
    database: slice


def shards(queries: Images, database: Images, query_block: int, database_parts: int = 1) -> list[Shard]:
    """Class-contiguous ranges of queries, times contiguous parts of the database."""
    order = np.argsort(queries.labels, kind="stable")
    cuts = np.linspace(0, len(database.ids), database_parts + 1).astype(int)
    parts = [slice(int(low), int(high)) for low, high in zip(cuts, cuts[1:], strict=False)]
    return [Shard(order[start : start + query_block], part) for start in range(0, len(order), query_block) for part in parts]


def search_shard(queries: Images, database: Images, same: bool, shard: Shard) -> tuple[Nearest, Nearest]:
    """``search`` over one shard: what a worker runs."""
    return search(queries.take(shard.queries), database.take(shard.database), same)


def compute(
    queries: Images,
    database: Images,
    same: bool,
    run: Callable[[list[Shard]], Iterator[tuple[int, tuple[Nearest, Nearest]]]],
    query_block: int = 1024,
    database_parts: int = 1,
) -> dict[str, Any]:
    """Rows of the table ``bound`` for every query, both kinds of neighbour.

    ``run`` computes shards, here or on workers, and yields (position, result) in any order.

    Raises HarnessError where an image has no neighbour of another class.
    """
    work = shards(queries, database, query_block, database_parts)
    kinds = {"other_class": Nearest.none(len(queries.ids)), "any_class": Nearest.none(len(queries.ids))}
    for position, found in run(work):
        at = work[position].queries
        for nearest, part in zip(kinds.values(), found, strict=True):
            merged = Nearest(nearest.distance[at], nearest.id[at]).merge(part)
            nearest.distance[at], nearest.id[at] = merged.distance, merged.id
    lonely = np.flatnonzero(kinds["other_class"].distance == _FAR)
    if len(lonely):
        raise HarnessError(
            f"{len(lonely)} images (first: id {queries.ids[lonely[0]]}, class {queries.labels[lonely[0]]}) have no neighbour "
            "of another class: the bound needs at least two classes among the training images"
        )
    values = int(np.prod(queries.pixels.shape[1:]))
    position_of = np.argsort(database.ids)
    rows: dict[str, Any] = {name: [] for name in ("neighbours", "image_id", "label", "neighbour_id", "neighbour_label", "distance")}
    for kind, nearest in kinds.items():
        at = position_of[np.searchsorted(database.ids, nearest.id, sorter=position_of)]
        rows["neighbours"].append(np.full(len(queries.ids), kind, dtype=object))
        rows["image_id"].append(queries.ids)
        rows["label"].append(queries.labels)
        rows["neighbour_id"].append(nearest.id)
        rows["neighbour_label"].append(database.labels[at])
        rows["distance"].append(nearest.distance / (255 * values))
    return {name: np.concatenate(parts) for name, parts in rows.items()}
