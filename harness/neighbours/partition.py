"""Partitions of an image's pixels whose signed block sums bound l1 distances from below.

Give each pixel to one block b, with a sign s = +-1, and let P(x)_b be the sum of s * x over the block.
By the triangle inequality l1(P(x), P(y)) <= l1(x, y), for any partition: which one is chosen changes how
many images a bound rules out, never which image is nearest.
"""

from dataclasses import dataclass

import numpy as np

from harness.data.datasets import Images
from harness.neighbours.classes import Classes, tiles
from harness.neighbours.nearest import EXACT_VALUES, distances, hamming, rows_of

PROJECTED_VALUES = 1 << 18  # pixels projected at once: they stay in the cache
ENCODED_ROWS = 1024  # images encoded at once


@dataclass(frozen=True)
class Partition:
    """Signed blocks of pixels.

    ``pixels`` int [d] block by block, their ``signs`` float32 [d], and ``starts`` int [blocks], each block's
    first place among them.
    """

    pixels: np.ndarray
    signs: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(block: np.ndarray, sign: np.ndarray) -> "Partition":
        """From each pixel's block and sign; blocks without a pixel vanish."""
        assert np.bincount(block).max() <= EXACT_VALUES, "a float32 would not hold a block's sum"
        order = np.argsort(block, kind="stable")
        starts = np.unique(block[order], return_index=True)[1]
        return Partition(order, sign[order].astype(np.float32), starts)

    @property
    def blocks(self) -> int:
        return len(self.starts)

    @property
    def largest_sum(self) -> int:
        """No block's sum of pixels 0..255 is larger."""
        return 255 * int(np.diff(self.starts, append=len(self.pixels)).max())

    def project(self, rows: np.ndarray) -> np.ndarray:
        """P of rows [N, d]: float32 [N, blocks], exact integers for rows of 0..255."""
        projected = np.empty((len(rows), self.blocks), dtype=np.float32)
        for tile in tiles(slice(0, len(rows)), max(1, PROJECTED_VALUES // rows.shape[1])):
            signed = rows[tile].take(self.pixels, axis=1) * self.signs
            projected[tile] = np.add.reduceat(signed, self.starts, axis=1)
        return projected


def slack(blocks: int) -> float:
    """By this factor a float32 sum of so many integers' differences may exceed the true one, by rounding.

    Only sums that pass 2^24 round. A limit that is raised by as much rules nothing out wrongly.
    """
    return 1 + (blocks + 4) * 2.0**-24


@dataclass(frozen=True)
class Level:
    """One level of the filter: a partition, and P of the database's images in order of class."""

    partition: Partition
    rows: np.ndarray


@dataclass(frozen=True)
class Codes:
    """Images rounded to a grid: ``rows`` uint8 [N, bytes], whole words of 64 bits; ``errors`` int64 [N].

    An image's error is l1(P(x), x'), how far it lies from its rounding.
    """

    rows: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class Grid:
    """P rounded to a grid: block b to the nearest of ``low[b] + step * (0 ... lines[b])``.

    For images x, y, their roundings x', y' and n(x, y), the grid lines between these, by the triangle
    inequality, step * n(x, y) - l1(P(x), x') - l1(P(y), y') <= l1(x, y): all in integers.

    ``unary`` codes have a bit for each grid line of a block, set where P lies above: codes differ in n bits.
    Counting bits takes a fraction of the time of summing floats. Else a block's code is a byte, the number
    of its line, and n is the l1 distance of the codes, for which processors have an instruction too.
    """

    partition: Partition
    low: np.ndarray  # int64 [blocks]
    lines: np.ndarray  # int64 [blocks]
    step: int
    unary: bool

    @staticmethod
    def of(partition: Partition, rows: np.ndarray, bits: int) -> "Grid":
        """A unary grid of at most so many lines over the middle 98 % of the projections of uint8 [N, d]."""
        low, high = np.quantile(partition.project(rows), (0.01, 0.99), axis=0)
        step = _smallest_step(high - low, bits)
        lines = _lines(high - low, step)
        centred = np.round((low + high - step * lines) / 2)  # what the lines leave over lies at both ends
        return Grid(partition, centred.astype(np.int64), lines, step, unary=True)

    @staticmethod
    def of_bytes(partition: Partition, rows: np.ndarray) -> "Grid":
        """A grid of one byte a block over all projections of rows uint8 [N, d]."""
        projected = partition.project(rows).astype(np.int64)
        low, high = projected.min(axis=0), projected.max(axis=0)
        step = max(1, -(-int((high - low).max()) // 255))
        return Grid(partition, low, np.full(len(low), 255), step, unary=False)

    @property
    def bits(self) -> int:
        """Bits of an image's code, or, of bytes, as many as its words have."""
        return int(self.lines.sum()) if self.unary else 64 * -(-len(self.lines) // 8)

    def encode(self, rows: np.ndarray) -> Codes:
        """The codes of rows uint8 [N, d]."""
        words = max(1, -(-self.bits // 64))
        codes = Codes(np.zeros((len(rows), 8 * words), np.uint8), np.empty(len(rows), np.int64))
        code = self._bits_of if self.unary else np.asarray
        for tile in tiles(slice(0, len(rows)), ENCODED_ROWS):
            above_low = self.partition.project(rows[tile]).astype(np.int64) - self.low
            nearest = (2 * above_low + self.step) // (2 * self.step)
            line = np.clip(nearest, 0, self.lines)
            codes.errors[tile] = np.abs(above_low - self.step * line).sum(axis=1)
            coded = code(line)
            codes.rows[tile, : coded.shape[1]] = coded
        return codes

    def _bits_of(self, line: np.ndarray) -> np.ndarray:
        """Unary codes uint8 [N, bytes] of lines [N, blocks]."""
        block_of_bit = np.repeat(np.arange(len(self.lines)), self.lines)
        first_bit = np.cumsum(self.lines) - self.lines
        line_of_bit = (np.arange(self.bits) - first_bit[block_of_bit]).astype(np.int32)
        return np.packbits(line.astype(np.int32)[:, block_of_bit] > line_of_bit, axis=1)

    def between(self, queries: np.ndarray, images: np.ndarray, out: np.ndarray) -> None:
        """Grid lines between all pairs of codes [Q, bytes], [N, bytes], to ``out`` int32 [Q, N]."""
        if self.unary:
            hamming(queries, images, out)
        else:
            out[:] = distances(queries.astype(np.float32), images.astype(np.float32))


def _lines(spread: np.ndarray, step: int) -> np.ndarray:
    """int64 [blocks]: grid lines in blocks whose projections spread so far."""
    return np.round(spread / step).astype(np.int64)


def _smallest_step(spread: np.ndarray, bits: int) -> int:
    """The smallest of the steps tried that makes at most so many lines over all blocks."""
    step = max(1, int(spread.sum() / bits))
    while _lines(spread, step).sum() > bits:
        step += max(1, step // 64)
    return step


@dataclass(frozen=True)
class Index:
    """What the filter needs to know of a database: read-only, once for all queries and any number of workers.

    Images are in order of class. ``codes`` uint8 [N, bytes] by the grid, and their ``errors`` int32 [N] in
    steps, rounded up.
    """

    classes: Classes
    grid: Grid
    codes: np.ndarray
    errors: np.ndarray
    levels: tuple[Level, ...]


def build(database: Images, grid: Grid, partitions: list[Partition]) -> Index:
    """The index of a database for a given grid and given partitions, the coarsest first."""
    classes, flat = Classes.of(database.labels), rows_of(database)
    pieces = [grid.encode(flat[classes.order[tile]]) for tile in tiles(slice(0, len(flat)), ENCODED_ROWS)]
    codes = np.concatenate([piece.rows for piece in pieces])
    errors = np.concatenate([piece.errors for piece in pieces])
    error_steps = -(-errors // grid.step)
    levels = [Level(partition, _projected(partition, flat, classes.order)) for partition in partitions]
    return Index(classes, grid, codes, error_steps.astype(np.int32), tuple(levels))


def _projected(partition: Partition, flat: np.ndarray, order: np.ndarray) -> np.ndarray:
    """P of all images in the order given, in the smallest integers that surely hold it."""
    integers = np.int16 if partition.largest_sum < 1 << 15 else np.int32
    rows = np.empty((len(flat), partition.blocks), dtype=integers)
    for tile in tiles(slice(0, len(flat)), ENCODED_ROWS):
        rows[tile] = partition.project(flat[order[tile]])
    return rows
