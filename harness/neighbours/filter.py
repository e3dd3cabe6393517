"""Exact nearest neighbours in l1 without most distances: lower bounds rule images out, level by level.

An image whose bound is above the distance of another that was measured already is proved farther.
All others are kept, also where bound and distance are equal, so that ties resolve to the smallest id;
what is left after the last level is measured. See ``partition`` for the bounds.

Queries of one class are searched together. For each tile of the database:

1. codes bound the distances of all pairs;
2. each query's image of the lowest bound is measured, which lowers the limits for all that follow;
3. pairs whose bound is not above the query's limit become candidates.

Then, for each query, the levels of the index rule out candidates, and the rest is measured.
That is how numpy and FAISS do it. ``scan`` does the same pair by pair, where an index has codes of bytes and
the machine a C compiler.
"""

from typing import NamedTuple

import numpy as np

from harness.data.datasets import Images
from harness.neighbours import scan
from harness.neighbours.classes import RowsByClass, Tile, blocks_by_class, split, tiles
from harness.neighbours.nearest import (
    ALL,
    EXACT_VALUES,
    FAR,
    Nearest,
    NearestByClass,
    Neighbours,
    Work,
    distances,
    rows_of,
)
from harness.neighbours.partition import Index, slack

QUERY_BLOCK = 128  # queries of one class that are filtered together
BLOCK_BYTES = (
    1 << 24
)  # of these queries' float32 pixels, and of the images measured at once, for large images
SCAN_BLOCK = 512  # of them in C
TILE = 2048  # images bounded at once: their codes and bounds stay in the cache
BUFFER = 1 << 20  # candidates kept before they are measured: bounds the memory where codes rule out little
LEVEL_ROWS = 512  # candidates of one query bounded at once
# Candidates of one query measured at once, the most promising first: they lower the limit for the rest.
FIRST = 16
NEXT = 128
NEVER = np.iinfo(np.int32).max  # steps: more than any limit


def search(queries: Images, database: Images, same: bool, index: Index, part: slice = ALL) -> Neighbours:
    """What ``nearest.search_tiled`` finds, by the levels of an index of the database."""
    if not index.grid.unary and scan.available(rows_of(database).shape[1]):
        return _scan(queries, database, same, index, part)
    nearest, work = NearestByClass.none(len(queries.ids)), Work()
    indexed = _Database(database, index)
    flat, ranges = rows_of(queries), index.classes.ranges(part)
    for label, members in blocks_by_class(queries.labels, min(QUERY_BLOCK, indexed.images_at_once)):
        ids = queries.ids[members] if same else None
        block = _Block(flat[members], ids, split(ranges, label), indexed)
        block.search()
        nearest.improve(members, block.nearest)
        work += block.work
    return nearest.neighbours(work)


def _scan(queries: Images, database: Images, same: bool, index: Index, part: slice) -> Neighbours:
    """What ``search`` finds, by the kernel in C."""
    nearest, work = NearestByClass.none(len(queries.ids)), Work()
    indexed = scan.Database(database, index)
    flat, ranges = rows_of(queries), index.classes.ranges(part)
    for label, members in blocks_by_class(queries.labels, SCAN_BLOCK):
        ids = queries.ids[members] if same else None
        found, did = indexed.search(flat[members], ids, split(ranges, label))
        nearest.improve(members, found)
        work += did
    return nearest.neighbours(work)


class _FloatRows:
    """Rows of a matrix of small integers as float32, in one buffer: new memory costs more than the sums."""

    def __init__(self, stored: np.ndarray, count: int) -> None:
        self._stored = stored
        self._integers = np.empty((count, stored.shape[1]), stored.dtype)
        self._floats = np.empty((count, stored.shape[1]), np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, at most as many as the buffer holds; good until the next call."""
        integers, floats = self._integers[: len(rows)], self._floats[: len(rows)]
        np.take(self._stored, rows, axis=0, out=integers, mode="clip")
        np.copyto(floats, integers)
        return floats


class _Database:
    """The database and its index as all blocks of queries read them, with the buffers that they share."""

    def __init__(self, images: Images, index: Index) -> None:
        flat = rows_of(images)
        self.order = index.classes.order
        self.ids = images.ids[self.order]
        self.grid, self.codes, self.errors = index.grid, index.codes, index.errors
        self.partitions = [level.partition for level in index.levels]
        self.level_rows = [_FloatRows(level.rows, LEVEL_ROWS) for level in index.levels]
        self.images_at_once = max(1, BLOCK_BYTES // (4 * flat.shape[1]))
        self.sum_type = np.float32 if flat.shape[1] <= EXACT_VALUES else np.float64
        self._pixels = _FloatRows(flat, min(NEXT, self.images_at_once))
        self._steps = np.empty(QUERY_BLOCK * TILE, np.int32)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """float32 [N, d] of the images in some rows, at most NEXT and ``images_at_once``."""
        return self._pixels.take(self.order[rows])

    def steps(self, queries: int, images: int) -> np.ndarray:
        """A buffer int32 [Q, T]."""
        return self._steps[: queries * images].reshape(queries, images)


class _Pairs(NamedTuple):
    """Pairs that the codes of a tile did not rule out: the block's query, the row, the bound in steps."""

    query: np.ndarray
    row: np.ndarray
    steps: np.ndarray


class _Candidates(NamedTuple):
    """Images that may be nearest to one query.

    ``own_class`` int64 [M]: 1 for images of the query's class, 0 for others. ``bound`` float32 [M]: below the
    distance, but for rounding, by which it may be too large by the factor ``slack``.
    """

    row: np.ndarray
    own_class: np.ndarray
    bound: np.ndarray
    slack: float

    def take(self, which: np.ndarray) -> "_Candidates":
        return _Candidates(self.row[which], self.own_class[which], self.bound[which], self.slack)


class _Block:
    """Queries of one class: what is nearest to each so far, and the pairs that are not measured yet."""

    def __init__(
        self, pixels: np.ndarray, ids: np.ndarray | None, rows: RowsByClass, database: _Database
    ) -> None:
        self._pixels = pixels.astype(np.float32)
        self._ids = ids  # of images that lie in the database too, and are not their own neighbours
        self._rows = rows
        self._database = database
        self._codes = database.grid.encode(pixels)
        self._projected = [partition.project(pixels) for partition in database.partitions]
        self._waiting: list[_Pairs] = []
        self.nearest = NearestByClass.none(len(pixels))
        self.work = Work(kept=(0,) * (1 + len(database.partitions)))

    def search(self) -> None:
        for tile in self._rows.tiles(TILE):
            self._search_tile(tile)
            if sum(len(pairs.query) for pairs in self._waiting) > BUFFER:
                self._measure_waiting()
        self._measure_waiting()

    # --- all pairs with a tile, by their codes ---

    def _search_tile(self, tile: Tile) -> None:
        """Bound the distances to a tile of images, and keep the pairs that may be nearest."""
        steps = self._bounds(tile)
        self._measure_lowest(steps, tile)
        kept = np.flatnonzero(steps <= self._step_limit(tile.own_class)[:, None])
        query, column = np.divmod(kept, steps.shape[1])
        self._waiting.append(_Pairs(query, column + tile.rows.start, steps.reshape(-1)[kept]))
        self.work += Work(pairs=steps.size)

    def _bounds(self, tile: Tile) -> np.ndarray:
        """Bounds int32 [Q, T] in steps of the grid, by codes; the query's own error is added to its limit."""
        database = self._database
        steps = database.steps(len(self._pixels), tile.rows.stop - tile.rows.start)
        database.grid.between(self._codes.rows, database.codes[tile.rows], steps)
        np.subtract(steps, database.errors[tile.rows], out=steps)
        if tile.own_class and self._ids is not None:
            steps[self._ids[:, None] == database.ids[tile.rows]] = NEVER
        return steps

    def _step_limit(self, own_class: bool) -> np.ndarray:
        """int32 [Q]: an image whose bound is more steps is ruled out, one of the own class or of another."""
        limit = np.minimum(self.nearest.limit(own_class), FAR // 2)  # which leaves room for the sum
        steps = (limit + self._codes.errors) // self._database.grid.step
        return np.minimum(steps, NEVER - 1).astype(np.int32)

    def _measure_lowest(self, steps: np.ndarray, tile: Tile) -> None:
        """Measure each query's image of the lowest bound in a tile, unless that is ruled out."""
        database = self._database
        lowest = steps.argmin(axis=1)
        lowest_steps = steps[np.arange(len(steps)), lowest]
        query = np.flatnonzero(lowest_steps <= self._step_limit(tile.own_class))
        row = tile.rows.start + lowest[query]
        measured = np.empty(len(query), np.int64)
        for some in tiles(slice(0, len(query)), min(NEXT, database.images_at_once)):
            differences = database.pixels(row[some])
            differences -= self._pixels[query[some]]
            np.abs(differences, out=differences)
            measured[some] = differences.sum(axis=1, dtype=database.sum_type)
        self.nearest.of(tile.own_class).improve(query, Nearest(measured, database.ids[row]))
        self.work += Work(exact=len(query))

    # --- the pairs that are left, query by query ---

    def _measure_waiting(self) -> None:
        """Find each query's nearest among the pairs that wait."""
        if not self._waiting:
            return
        query = np.concatenate([pairs.query for pairs in self._waiting])
        row = np.concatenate([pairs.row for pairs in self._waiting])
        steps = np.concatenate([pairs.steps for pairs in self._waiting])
        self._waiting.clear()

        # The limits have fallen since these pairs were kept.
        own_rows = self._rows.own_class
        own_class = ((row >= own_rows.start) & (row < own_rows.stop)).astype(np.int64)
        limits = np.stack([self._step_limit(own_class=False), self._step_limit(own_class=True)])
        left = np.flatnonzero(steps <= limits[own_class, query])
        left = left[np.argsort(query[left].astype(np.int16), kind="stable")]  # 16 bits: a radix sort
        row, own_class = row[left], own_class[left]

        start = 0
        for one, count in enumerate(np.bincount(query[left], minlength=len(self._pixels)).tolist()):
            mine = slice(start, start + count)
            self._measure_query(one, row[mine], own_class[mine])
            start += count

    def _measure_query(self, query: int, row: np.ndarray, own_class: np.ndarray) -> None:
        """Find one query's nearest among some rows: the levels rule out, the rest is measured."""
        candidates = _Candidates(row, own_class, np.zeros(len(row), np.float32), slack(0))
        kept = [len(row)]
        for level in range(len(self._projected)):
            candidates = self._filter(query, candidates, level)
            kept.append(len(candidates.row))

        exact, at_once = 0, self._database.images_at_once
        size = min(FIRST, at_once)
        while len(candidates.row) > size:
            candidates = self._measure_first(query, candidates, size)
            exact += size
            size = min(NEXT, at_once)
        if len(candidates.row):
            self._measure(query, candidates)
            exact += len(candidates.row)
        self.work += Work(kept=tuple(kept), exact=exact)

    def _filter(self, query: int, candidates: _Candidates, level: int) -> _Candidates:
        """The candidates that a level's bounds leave, with these bounds."""
        projected = self._projected[level][query : query + 1]
        bound = np.empty(len(candidates.row), np.float32)
        for some in tiles(slice(0, len(bound)), LEVEL_ROWS):
            stored = self._database.level_rows[level].take(candidates.row[some])
            distances(projected, stored, bound[None, some])
        bounded = _Candidates(candidates.row, candidates.own_class, bound, slack(projected.shape[1]))
        return bounded.take(bound <= self._limit(query, bounded))

    def _limit(self, query: int, candidates: _Candidates) -> np.ndarray:
        """float32 [M]: a candidate whose bound is above it is ruled out; raised for the bounds' rounding."""
        other_class = self.nearest.other_class.distance[query]
        own_class = min(other_class, self.nearest.own_class.distance[query])
        limits = np.array((other_class * candidates.slack, own_class * candidates.slack), np.float32)
        return limits.take(candidates.own_class)

    def _measure_first(self, query: int, candidates: _Candidates, size: int) -> _Candidates:
        """Measure the most promising candidates; return those of the others that are not ruled out now."""
        margin = candidates.bound - self._limit(query, candidates)
        first = np.argpartition(margin, size)[:size]
        self._measure(query, candidates.take(first))
        left = candidates.bound <= self._limit(query, candidates)
        left[first] = False
        return candidates.take(left)

    def _measure(self, query: int, candidates: _Candidates) -> None:
        """Measure candidates, at most NEXT."""
        pixels = self._database.pixels(candidates.row)
        measured = distances(self._pixels[query : query + 1], pixels)[0]
        ids = self._database.ids[candidates.row]
        for own_class in (False, True):
            which = candidates.own_class == own_class
            if which.any():
                self.nearest.of(own_class).improve_one(query, measured[which], ids[which])
