"""Exact nearest neighbours in l1 without most distances: lower bounds rule images out, level by level.

An image whose bound is above the distance of another that was measured already is proved farther.
All others are kept, also where bound and distance are equal, so that ties resolve to the smallest id;
what is left after the last level is measured. See ``partition`` for the bounds.
"""

import numpy as np

from harness.datasets import Images
from harness.nearest import ALL, FAR, Found, Nearest, Work, blocks_by_class, distances, rows_of, tiles
from harness.partition import Index

QUERY_BLOCK = 128  # queries of one class that are filtered together
BLOCK_BYTES = 1 << 23  # of these queries' float32 pixels, for large images
TILE = 2048  # images bounded at once: tile and bounds stay in the cache
BUFFER = 1 << 20  # candidates kept before they are measured: bounds the memory where the filter rules out little
FIRST, NEXT = 8, 64  # candidates measured at once, lowest bound first: the first few lower the limit for the rest


def search(queries: Images, database: Images, same: bool, index: Index, part: slice = ALL) -> Found:
    """What ``nearest.search_tiled`` finds, by the levels of an index of the database."""
    other, own = Nearest.none(len(queries.ids)), Nearest.none(len(queries.ids))
    slices = index.classes.slices(part)
    flat, size = rows_of(queries), BLOCK_BYTES // (4 * rows_of(database).shape[1])
    work = Work()
    for label, at in blocks_by_class(queries.labels, max(1, min(QUERY_BLOCK, size))):
        kin = [rows for other_label, rows in slices if other_label == label]
        foreign = [rows for other_label, rows in slices if other_label != label]
        block = _Block(flat[at], queries.ids[at] if same else None, kin[0] if kin else slice(0, 0), database, index)
        for rows in [*foreign, *kin]:  # the own class last: what is found in others limits the search for any class
            for tile in tiles(rows, TILE):
                block.look(tile)
        block.measure()
        other.improve(at, block.other)
        own.improve(at, block.own)
        work += block.work
    return Found(other, other.merge(own), work)


class _Block:
    """Queries of one class: what is nearest to each so far, and the candidates that are not measured yet."""

    def __init__(self, pixels: np.ndarray, own_ids: np.ndarray | None, kin: slice, database: Images, index: Index) -> None:
        self._pixels, self._own_ids, self._kin = pixels.astype(np.float32), own_ids, kin
        self._flat, self._ids = rows_of(database), database.ids
        self._order, self._levels = index.classes.order, index.levels
        self._projected = [level.partition.project(pixels) for level in index.levels]
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # queries, rows, bounds
        self._lowest = np.full((2, len(pixels)), np.inf, np.float32)  # bound so far in other classes, in the own
        self.other, self.own = Nearest.none(len(pixels)), Nearest.none(len(pixels))
        self.work = Work(0, (0,) * len(index.levels), 0)

    def look(self, tile: slice) -> None:
        """Bound the distances to a tile of images of the own class or of others; keep those that may be nearest."""
        kin = self._kin.start <= tile.start < self._kin.stop
        bounds = distances(self._projected[0], self._levels[0].rows[tile].astype(np.float32))
        if kin and self._own_ids is not None:
            bounds[self._own_ids[:, None] == self._ids[self._order[tile]][None, :]] = np.inf
        self._measure_lowest(bounds, tile, kin)
        kept = np.flatnonzero(bounds <= self._limits(0)[int(kin)][:, None])
        query, row = np.divmod(kept, bounds.shape[1])
        self._waiting.append((query, row + tile.start, bounds.reshape(-1)[kept]))
        self.work += Work(bounds.size)
        if sum(len(query) for query, _, _ in self._waiting) > BUFFER:
            self.measure()

    def _limits(self, level: int, query: slice = ALL) -> np.ndarray:
        """float32 [2, Q]: up to which bound an image of another class, of the own class, may be nearest.

        A sum of float32 blocks may exceed the true bound by its rounding (of images whose sums pass 2^24),
        so the limit is raised by as much; the factor does no harm where sums are exact.
        """
        other = self.other.distance[query]
        nearest = np.stack([other, np.minimum(other, self.own.distance[query])])
        rounding = (self._projected[level].shape[1] + 4) * 2.0**-24
        return np.where(nearest == FAR, np.finfo(np.float32).max, nearest * (1 + rounding)).astype(np.float32)

    def _measure_lowest(self, bounds: np.ndarray, tile: slice, kin: bool) -> None:
        """Measure each query's image of lowest bound where that is lower than any before: a first limit."""
        best = bounds.argmin(axis=1)
        found = bounds[np.arange(len(bounds)), best]
        which = np.flatnonzero(found < self._lowest[int(kin)])
        self._lowest[int(kin), which] = found[which]
        at = self._order[tile][best[which]]
        measured = np.abs(self._pixels[which] - self._flat[at]).sum(axis=1, dtype=np.float64).astype(np.int64)
        (self.own if kin else self.other).improve(which, Nearest(measured, self._ids[at]))
        self.work += Work(exact=len(which))

    def measure(self) -> None:
        """Find each query's nearest among its candidates."""
        if not self._waiting:
            return
        query, row, bound = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        kin = ((row >= self._kin.start) & (row < self._kin.stop)).astype(np.intp)
        near = np.flatnonzero(bound <= self._limits(0)[kin, query])
        near = near[np.argsort(query[near].astype(np.int16), kind="stable")]  # by query; of 16 bits: a radix sort
        ends = np.cumsum(np.bincount(query[near], minlength=len(self._pixels))).tolist()
        for at, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            mine = near[start:end]
            self._measure_query(slice(at, at + 1), row[mine], kin[mine], bound[mine])

    def _measure_query(self, query: slice, row: np.ndarray, kin: np.ndarray, bound: np.ndarray) -> None:
        """Find one query's nearest among some rows."""
        kept, exact, size = [len(row)], 0, FIRST
        for level in range(1, len(self._levels)):
            bound = distances(self._projected[level][query], self._levels[level].rows[row].astype(np.float32))[0]
            near = bound <= self._limits(level, query)[kin, 0]
            row, kin, bound = row[near], kin[near], bound[near]
            kept.append(len(row))
        order = np.argsort(bound)
        row, kin, bound = row[order], kin[order], bound[order]
        while len(row):
            at = self._order[row[:size]]
            measured = distances(self._pixels[query], self._flat[at].astype(np.float32))[0]
            for nearest, of_kin in ((self.other, 0), (self.own, 1)):
                _improve(nearest, query.start, measured, self._ids[at], kin[:size] == of_kin)
            exact += len(at)
            near = size + np.flatnonzero(bound[size:] <= self._limits(len(self._levels) - 1, query)[kin[size:], 0])
            row, kin, bound, size = row[near], kin[near], bound[near], NEXT
        self.work += Work(0, tuple(kept), exact)


def _improve(nearest: Nearest, query: int, measured: np.ndarray, ids: np.ndarray, which: np.ndarray) -> None:
    """Merge one query's distances to some images into what is nearest."""
    measured, ids = measured[which], ids[which]
    if len(measured):
        smallest = measured.min()
        found = int(smallest), int(ids[measured == smallest].min())
        if found < (nearest.distance[query], nearest.id[query]):
            nearest.distance[query], nearest.id[query] = found
