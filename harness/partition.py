"""Partitions of an image's pixels whose signed block sums bound l1 distances from below, learned to bound them well.

Give each pixel to one block b, with a sign s = +-1, and let P(x)_b be the sum of s * x over the block.
By the triangle inequality l1(P(x), P(y)) <= l1(x, y), for any partition: a learned one changes how
many images a bound rules out, never which image is nearest.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from harness.datasets import Images
from harness.nearest import EXACT_VALUES, Classes, distances, hamming, rows_of, tiles

BLOCKS = (48, 96, 192, 384, 768)  # sizes of the partitions among which the filter's levels are chosen
BITS, CODED = (
    (512, 1024, 2048),
    96,
)  # sizes of the codes among which its first is chosen, and of the partitions to be coded
PAIRS, QUERIES, SAMPLE = (
    2048,
    128,
    16_384,
)  # hard pairs to learn from: of so many queries, in a sample of the images
TRIALS, COLUMNS, REFERENCE = (
    64,
    8192,
    65_536,
)  # queries, images and reference images for measuring what a level leaves
PAIRS_BYTES = 1 << 28  # of these pairs' float32 differences, for large images
ROUNDS = 6
WORTHWHILE = (
    6e10  # pixel differences, about 3 s: less than this is compared sooner than a partition is learned
)
GPU_WORTHWHILE = 200_000  # images: a GPU compares all pairs of fewer in seconds (reckoned from FAISS's speed there, not measured)


@dataclass(frozen=True)
class Partition:
    """Signed blocks of pixels: ``pixels`` int [d] block by block, their ``signs`` float32 [d], each block's first place."""

    pixels: np.ndarray
    signs: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(block: np.ndarray, sign: np.ndarray) -> "Partition":
        """From each pixel's block and sign; blocks without a pixel vanish."""
        assert np.bincount(block).max() <= EXACT_VALUES, "a float32 would not hold a block's sum"
        order = np.argsort(block, kind="stable")
        return Partition(order, sign[order].astype(np.float32), np.unique(block[order], return_index=True)[1])

    def project(self, rows: np.ndarray) -> np.ndarray:
        """P of rows [N, d]: float32 [N, blocks], exact integers for rows of 0..255."""
        found = np.empty((len(rows), len(self.starts)), dtype=np.float32)
        for tile in tiles(slice(0, len(rows)), max(1, (1 << 18) // rows.shape[1])):
            found[tile] = np.add.reduceat(
                rows[tile].take(self.pixels, axis=1) * self.signs, self.starts, axis=1
            )
        return found


@dataclass(frozen=True)
class Level:
    """One level of the filter: a partition, and P of the database's images in order of class."""

    partition: Partition
    rows: np.ndarray


@dataclass(frozen=True)
class Grid:
    """P rounded to a grid, as a code whose bits differ in as many places as there are grid lines between two images.

    Block b is rounded to the nearest of ``low[b] + step * (0 ... lines[b])``. Then for images x, y and their
    roundings x', y', by the triangle inequality, step * hamming(x, y) - l1(P(x), x') - l1(P(y), y') <= l1(x, y):
    all in integers. Counting bits takes a fraction of the time of summing floats.
    """

    partition: Partition
    low: np.ndarray  # int64 [blocks]
    lines: np.ndarray  # int64 [blocks]
    step: int

    @staticmethod
    def of(partition: Partition, rows: np.ndarray, bits: int) -> "Grid":
        """A grid of at most so many lines over the middle 98 % of some images' projections, rows uint8 [N, d]."""
        low, high = np.quantile(partition.project(rows), (0.01, 0.99), axis=0)
        step = max(1, int((high - low).sum() / bits))
        while (lines := np.round((high - low) / step)).sum() > bits:
            step += max(1, step // 64)
        return Grid(
            partition,
            np.round((low + high - step * lines) / 2).astype(np.int64),
            lines.astype(np.int64),
            step,
        )

    def encode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes uint8 [N, bytes], whole words of 64 bits, and l1(P(x), x') int64 [N] of rows uint8 [N, d]."""
        words = max(1, -(-int(self.lines.sum()) // 64))
        codes, errors = np.zeros((len(rows), 8 * words), np.uint8), np.empty(len(rows), np.int64)
        block = np.repeat(np.arange(len(self.lines)), self.lines)
        line = (np.arange(len(block)) - np.repeat(np.cumsum(self.lines) - self.lines, self.lines)).astype(
            np.int32
        )
        for tile in tiles(slice(0, len(rows)), 1024):
            projected = self.partition.project(rows[tile]).astype(np.int64)
            nearest = np.clip((2 * (projected - self.low) + self.step) // (2 * self.step), 0, self.lines)
            errors[tile] = np.abs(projected - self.low - self.step * nearest).sum(axis=1)
            packed = np.packbits(nearest.astype(np.int32)[:, block] > line, axis=1)
            codes[tile, : packed.shape[1]] = packed
        return codes, errors


@dataclass(frozen=True)
class Index:
    """What the filter needs to know of a database, once for all queries: read-only, for any number of workers.

    Images are in order of class. ``codes`` uint8 [N, bytes] by the grid; ``errors`` int32 [N] in steps, rounded up.
    """

    classes: Classes
    grid: Grid
    codes: np.ndarray
    errors: np.ndarray
    levels: tuple[Level, ...]


def index(database: Images, seed: int = 0, gpu: bool = False) -> Index | None:
    """The levels that should find neighbours in the database fastest, or None where comparing all pairs is faster.

    The levels are chosen by what they leave of a sample, and by costs measured once for all machines:
    a wrong guess costs time only.
    """
    flat = rows_of(database)
    if float(len(flat)) ** 2 * flat.shape[1] < WORTHWHILE or (gpu and len(flat) < GPU_WORTHWHILE):
        return None
    rng = np.random.default_rng(seed)
    hard = hard_pairs(flat, rng)
    ladder = [
        learn(hard, blocks) for blocks in BLOCKS if 2 * blocks <= flat.shape[1] <= EXACT_VALUES * blocks
    ]
    chosen = _fastest(database, ladder, rng)
    return build(database, *chosen) if chosen else None


def build(database: Images, grid: Grid, partitions: list[Partition]) -> Index:
    """The index of a database for a given grid and given partitions, the coarsest first."""
    classes, flat = Classes.of(database.labels), rows_of(database)
    parts = [grid.encode(flat[classes.order[tile]]) for tile in tiles(slice(0, len(flat)), 1024)]
    codes, errors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    levels = tuple(Level(p, _projected(p, flat, classes.order)) for p in partitions)
    return Index(classes, grid, codes, (-(-errors // grid.step)).astype(np.int32), levels)


def _projected(partition: Partition, flat: np.ndarray, order: np.ndarray) -> np.ndarray:
    """P of all images in the order given, in the smallest integers that surely hold it."""
    largest = 255 * int(np.diff(partition.starts, append=flat.shape[1]).max())
    rows = np.empty((len(flat), len(partition.starts)), dtype=np.int16 if largest < 1 << 15 else np.int32)
    for tile in tiles(slice(0, len(flat)), 1024):
        rows[tile] = partition.project(flat[order[tile]])
    return rows


# --- learning --------------------------------------------------------------------------------------


def hard_pairs(flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences float32 [M, d], M about PAIRS, of near, not nearest, images: those that a bound must rule out by the narrowest margin."""
    at = np.sort(rng.choice(len(flat), min(SAMPLE, len(flat)), replace=False))
    queries = rng.choice(len(at), min(QUERIES, len(at)), replace=False)
    measured = _all_distances(flat, at[queries], at)
    near = max(1, len(at) // 100)
    nearest = np.argpartition(measured, near, axis=1)[:, :near]
    pairs = max(1, min(PAIRS, PAIRS_BYTES // (4 * flat.shape[1])) // len(queries))
    chosen = np.take_along_axis(nearest, rng.integers(0, near, (len(queries), pairs)), axis=1)
    differences = flat[at[queries]].astype(np.float32)[:, None] - flat[at[chosen]]
    return differences.reshape(-1, flat.shape[1])


def learn(differences: np.ndarray, blocks: int) -> Partition:
    """Blocks and signs that keep much of the l1 norm of the differences [M, d].

    Alternates, for the sum over pairs and blocks of |P|, between the sign of each P and the block and
    sign of each pixel that those signs favour most.
    """
    values = differences.shape[1]
    block, sign = np.arange(values) * blocks // values, np.ones(values)
    learned = Partition.of(block, sign)
    for _ in range(ROUNDS):
        signs = np.sign(learned.project(differences))
        best, strength = np.empty(values, np.int64), np.empty(values, np.float32)
        for some in tiles(slice(0, values), 4096):
            favour = differences[:, some].T @ signs
            best[some] = np.abs(favour).argmax(axis=1)
            strength[some] = favour[np.arange(len(favour)), best[some]]
        alive = (
            strength != 0
        )  # a pixel that never differs stays where it is: it is of use to no block, and too much for one
        block, sign = np.where(alive, best, block), np.where(alive, np.sign(strength), sign)
        block = np.unique(block, return_inverse=True)[1]
        if np.bincount(block).max() > EXACT_VALUES:
            break
        learned = Partition.of(block, sign)
    return learned


def _all_distances(flat: np.ndarray, queries: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Distances [Q, N] between images at some positions, inf between an image and itself."""
    found = np.empty((len(queries), len(at)), dtype=np.float32)
    block = flat[queries].astype(np.float32)
    for tile in tiles(slice(0, len(at)), max(1, (1 << 17) // flat.shape[1])):
        found[:, tile] = distances(block, flat[at[tile]].astype(np.float32))
    found[queries[:, None] == at[None, :]] = np.inf
    return found


# --- choosing the levels ---------------------------------------------------------------------------


def _fastest(
    database: Images, ladder: list[Partition], rng: np.random.Generator
) -> tuple[Grid, list[Partition]] | None:
    """The grid and levels with the least expected time for a pair; None where that is more than to compare all pixels."""
    flat, count = rows_of(database), len(database.ids)
    queries = rng.choice(count, min(TRIALS, count), replace=False)
    at = np.sort(rng.choice(count, min(REFERENCE, count), replace=False))
    measured = _all_distances(flat, queries, at)
    foreign = database.labels[queries][:, None] != database.labels[at][None, :]
    limit = np.where(foreign, np.where(foreign, measured, np.inf).min(1)[:, None], measured.min(1)[:, None])
    some = rng.choice(len(at), min(COLUMNS, len(at)), replace=False)
    limit, ones, others = limit[:, some], flat[queries], flat[at[some]]
    left = [(distances(p.project(ones), p.project(others)) <= limit).mean() for p in ladder]
    fastest: tuple[float, tuple[Grid, list[Partition]] | None] = (_EXACT_NS * flat.shape[1], None)
    for grid in (Grid.of(p, others, bits) for p in ladder if len(p.starts) <= CODED for bits in BITS):
        left_first = (_grid_bounds(grid, ones, others) <= limit).mean()
        for chosen in itertools.chain.from_iterable(
            itertools.combinations(range(len(ladder)), size) for size in range(len(ladder) + 1)
        ):
            if (
                grid.lines.sum() / 8 + 2 * sum(len(ladder[level].starts) for level in chosen)
                > 2 / 3 * flat.shape[1]
            ):
                continue  # workers hold the index beside the images: it stays smaller than they are
            shares = [left_first, *(left[level] for level in chosen)]
            expected = _expected_ns(
                int(grid.lines.sum()), shares, [len(ladder[level].starts) for level in chosen], flat.shape
            )
            if expected < fastest[0]:
                fastest = expected, (grid, [ladder[level] for level in chosen])
    return fastest[1]


_EXACT_NS = 0.05  # a value of a pair in a tile; this and what follows: one thread of a Zen 5 with AVX-512, only ratios matter


def _expected_ns(bits: int, shares: list[float], blocks: list[int], shape: tuple[int, ...]) -> float:
    """Time for a pair: ``shares`` are what is left after the codes and after each level, of so many blocks."""
    count, values = shape
    time = 0.6 + 0.0011 * bits + 20 * shares[0]
    for share, width in zip(shares[:-1], blocks, strict=True):
        time += (
            share * (10 + 0.25 * width) + 15e3 / count
        )  # for a candidate, whose row lies anywhere in memory; for a query
    return time + shares[-1] * (100 + 0.4 * values) + 40e3 / count


def _grid_bounds(grid: Grid, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Lower bounds int64 [Q, N] on the distances of rows uint8."""
    (codes, errors), (other_codes, other_errors) = grid.encode(ones), grid.encode(others)
    differ = np.empty((len(ones), len(others)), np.int32)
    hamming(codes, other_codes, differ)
    return grid.step * differ.astype(np.int64) - errors[:, None] - other_errors[None, :]
