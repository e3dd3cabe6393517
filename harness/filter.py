"""Exact nearest neighbours in l1 without most distances: lower bounds rule images out, level by level.

An image whose bound is above the distance of another that was measured already is proved farther.
All others are kept, also where bound and distance are equal, so that ties resolve to the smallest id;
what is left after the last level is measured. See ``partition`` for the bounds.
"""

import numpy as np

from harness.datasets import Images
from harness.nearest import (
    ALL,
    EXACT_VALUES,
    FAR,
    Found,
    Nearest,
    Work,
    around,
    blocks_by_class,
    distances,
    hamming,
    rows_of,
    tiles,
)
from harness.partition import Index

QUERY_BLOCK = 128  # queries of one class that are filtered together
BLOCK_BYTES = (
    1 << 24
)  # of these queries' float32 pixels, and of the candidates measured at once, for large images
TILE = 2048  # images bounded at once: tile and bounds stay in the cache
BUFFER = (
    1 << 20
)  # candidates kept before they are measured: bounds the memory where the filter rules out little
NEVER = np.iinfo(np.int32).max  # steps
LISTED = 512  # candidates of one query bounded at once
FIRST, NEXT = (
    16,
    128,
)  # candidates of one query measured at once, the most promising first: they lower the limits for the rest


def search(queries: Images, database: Images, same: bool, index: Index, part: slice = ALL) -> Found:
    """What ``nearest.search_tiled`` finds, by the levels of an index of the database."""
    other, own = Nearest.none(len(queries.ids)), Nearest.none(len(queries.ids))
    slices, store = index.classes.slices(part), _Store(database, index)
    flat, work = rows_of(queries), Work()
    for label, at in blocks_by_class(queries.labels, min(QUERY_BLOCK, store.fitting)):
        foreign, kin = around(slices, label)
        block = _Block(flat[at], queries.ids[at] if same else None, kin, store)
        for rows in [
            *foreign,
            kin,
        ]:  # the own class last: what is found in others limits the search for any class
            for tile in tiles(rows, TILE):
                block.look(tile)
        block.measure()
        other.improve(at, block.other)
        own.improve(at, block.own)
        work += block.work
    return Found(other, other.merge(own), work)


class _Rows:
    """Rows of a matrix of small integers as float32, in one buffer: fresh memory for each would cost more than the sums."""

    def __init__(self, stored: np.ndarray, count: int) -> None:
        self._stored = stored
        self._narrow, self._wide = (
            np.empty((count, stored.shape[1]), dtype) for dtype in (stored.dtype, np.float32)
        )

    def take(self, rows: np.ndarray) -> np.ndarray:
        narrow, wide = self._narrow[: len(rows)], self._wide[: len(rows)]
        np.take(self._stored, rows, axis=0, out=narrow, mode="clip")
        np.copyto(wide, narrow)
        return wide


class _Store:
    """The database as all blocks of queries read it, with the buffers that they share: images in order of class."""

    def __init__(self, database: Images, index: Index) -> None:
        self.order, self.flat = index.classes.order, rows_of(database)
        self.ids = database.ids[self.order]
        self.grid, self.codes, self.errors = index.grid, index.codes, index.errors
        self.partitions = [level.partition for level in index.levels]
        self.levels = [_Rows(level.rows, LISTED) for level in index.levels]
        self.fitting = max(1, BLOCK_BYTES // (4 * self.flat.shape[1]))  # images
        self.pixels = _Rows(self.flat, min(NEXT, self.fitting))
        self.sums = np.float32 if self.flat.shape[1] <= EXACT_VALUES else np.float64
        self.steps = np.empty(QUERY_BLOCK * TILE, np.int32)


class _Block:
    """Queries of one class: what is nearest to each so far, and the candidates that are not measured yet."""

    def __init__(self, pixels: np.ndarray, own_ids: np.ndarray | None, kin: slice, store: _Store) -> None:
        self._pixels, self._own_ids, self._kin, self._store = pixels.astype(np.float32), own_ids, kin, store
        self._codes, self._errors = store.grid.encode(pixels)
        self._projected = [partition.project(pixels) for partition in store.partitions]
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # queries, rows, steps
        self.other, self.own = Nearest.none(len(pixels)), Nearest.none(len(pixels))
        self.work = Work(0, (0,) * (1 + len(store.partitions)), 0)

    def look(self, tile: slice) -> None:
        """Bound the distances to a tile of images of the own class or of others; keep those that may be nearest."""
        kin = int(self._kin.start <= tile.start < self._kin.stop)
        shape = len(self._pixels), tile.stop - tile.start
        steps = self._store.steps[: shape[0] * shape[1]].reshape(shape)
        hamming(self._codes, self._store.codes[tile], steps)
        np.subtract(steps, self._store.errors[tile], out=steps)
        if kin and self._own_ids is not None:
            steps[self._own_ids[:, None] == self._store.ids[tile][None, :]] = NEVER
        self._measure_lowest(steps, tile, kin)
        kept = np.flatnonzero(steps <= self._most_steps()[kin][:, None])
        query, row = np.divmod(kept, shape[1])
        self._waiting.append((query, row + tile.start, steps.reshape(-1)[kept]))
        self.work += Work(steps.size)
        if sum(len(query) for query, _, _ in self._waiting) > BUFFER:
            self.measure()

    def _most_steps(self) -> np.ndarray:
        """int32 [2, Q]: so many steps apart, an image of another class, of the own class, may be nearest."""
        nearest = np.array((self.other.distance, np.minimum(self.other.distance, self.own.distance)))
        steps = (np.minimum(nearest, FAR // 2) + self._errors) // self._store.grid.step
        return np.minimum(steps, NEVER - 1).astype(np.int32)

    def _limits(self, level: int, query: "slice | int" = ALL) -> np.ndarray:
        """float32 [2] or [2, Q]: up to which bound an image of another class, of the own class, may be nearest.

        A sum of float32 blocks may exceed the true bound by its rounding (of images whose sums pass 2^24),
        so the limit is raised by as much; the factor does no harm where sums are exact.
        """
        other = self.other.distance[query]
        nearest = np.array((other, np.minimum(other, self.own.distance[query])))
        blocks = self._projected[level].shape[1] if self._projected else 0
        return (nearest * (1 + (blocks + 4) * 2.0**-24)).astype(np.float32)

    def _measure_lowest(self, steps: np.ndarray, tile: slice, kin: int) -> None:
        """Measure each query's image of lowest bound in a tile, unless ruled out: the limits fall while tiles are looked at."""
        best = steps.argmin(axis=1)
        which = np.flatnonzero(steps[np.arange(len(steps)), best] <= self._most_steps()[kin])
        row = tile.start + best[which]
        total = np.empty(len(which), np.int64)
        for some in tiles(slice(0, len(which)), min(NEXT, self._store.fitting)):
            stored = self._store.pixels.take(self._store.order[row[some]])
            np.abs(np.subtract(stored, self._pixels[which[some]], out=stored), out=stored)
            total[some] = stored.sum(axis=1, dtype=self._store.sums)
        (self.own if kin else self.other).improve(which, Nearest(total, self._store.ids[row]))
        self.work += Work(exact=len(which))

    def measure(self) -> None:
        """Find each query's nearest among its candidates."""
        if not self._waiting:
            return
        query, row, steps = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        kin = ((row >= self._kin.start) & (row < self._kin.stop)).astype(np.intp)
        near = np.flatnonzero(steps <= self._most_steps()[kin, query])
        near = near[
            np.argsort(query[near].astype(np.int16), kind="stable")
        ]  # by query; of 16 bits: a radix sort
        ends = np.cumsum(np.bincount(query[near], minlength=len(self._pixels))).tolist()
        row, kin = row[near], kin[near]
        for at, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            self._measure_query(at, row[start:end], kin[start:end])

    def _measure_query(self, query: int, row: np.ndarray, kin: np.ndarray) -> None:
        """Find one query's nearest among some rows."""
        kept, bound = [len(row)], np.zeros(len(row), np.float32)
        for level in range(len(self._projected)):
            bound = np.empty(len(row), np.float32)
            for some in tiles(slice(0, len(row)), LISTED):
                stored = self._store.levels[level].take(row[some])
                distances(self._projected[level][query : query + 1], stored, bound[None, some])
            near = bound <= self._limits(level, query)[kin]
            row, kin, bound = row[near], kin[near], bound[near]
            kept.append(len(row))
        size = FIRST
        while len(row):
            row, kin, bound = self._measure_first(query, row, kin, bound, min(size, self._store.fitting))
            size = NEXT
        self.work += Work(0, tuple(kept))

    def _measure_first(
        self, query: int, row: np.ndarray, kin: np.ndarray, bound: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Measure the most promising rows, which may lower the limits, and return those of the others that are left."""
        last = len(self._projected) - 1
        first = (
            ALL if len(row) <= size else np.argpartition(bound - self._limits(last, query)[kin], size)[:size]
        )
        chosen, of_kin = row[first], kin[first]
        measured = distances(
            self._pixels[query : query + 1], self._store.pixels.take(self._store.order[chosen])
        )[0]
        self.work += Work(exact=len(chosen))
        for kind, nearest in enumerate((self.other, self.own)):
            which = of_kin == kind
            if which.any():
                _improve(nearest, query, measured[which], self._store.ids[chosen[which]])
        left = bound <= self._limits(last, query)[kin]
        left[first] = False
        return row[left], kin[left], bound[left]


def _improve(nearest: Nearest, query: int, measured: np.ndarray, ids: np.ndarray) -> None:
    """Merge one query's distances to some images into what is nearest."""
    smallest = measured.min()
    found = int(smallest), int(ids[measured == smallest].min())
    if found < (nearest.distance[query], nearest.id[query]):
        nearest.distance[query], nearest.id[query] = found
