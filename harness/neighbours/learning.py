"""Learning the filter's index: partitions whose bounds come close to distances, and which of them to use.

Exactness needs none of this: whatever is learned and chosen here changes the time of a search alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.data.datasets import Images
from harness.neighbours import scan
from harness.neighbours.classes import tiles
from harness.neighbours.nearest import EXACT_VALUES, distances, rows_of
from harness.neighbours.partition import Grid, Index, Partition, build

# Less than this is compared sooner than a partition is learned: pixel differences, about 3 s.
WORTHWHILE = 6e10
# A GPU compares all pairs of fewer images in seconds (reckoned from FAISS's speed there, not measured).
GPU_WORTHWHILE = 200_000

BLOCKS = (48, 96, 192, 384, 768)  # sizes of the partitions among which the filter's levels are chosen
UNARY_BLOCKS = 96  # the largest partition to have unary codes,
BITS = (512, 1024, 2048)  # and the sizes of these among which one is chosen
BYTE_BLOCKS = 384  # the largest partition to have codes of a byte a block
INDEX_SHARE = 2 / 3  # of the images' bytes: workers hold the index beside the images

# Hard pairs to learn from: of so many queries, in a sample of the images.
HARD_PAIRS = 512
HARD_QUERIES = 128
HARD_SAMPLE = 16_384
HARD_BYTES = 1 << 28  # of these pairs' float32 differences, for large images
ROUNDS = 9  # of learning
FAVOURED_PIXELS = 4096  # pixels that find their best block at once

# For measuring what a level leaves: queries, images that they are compared with, images that limit them.
TRIAL_QUERIES = 64
TRIAL_IMAGES = 8192
TRIAL_REFERENCE = 65_536
TILE_VALUES = 1 << 17  # pixels compared with a block of queries at once


def index(database: Images, seed: int = 0, gpu: bool = False) -> Index | None:
    """The index that should find neighbours fastest, or None where comparing all pairs is faster.

    It is chosen by what its levels leave of a sample, and by costs measured once for all machines:
    a wrong guess costs time only.
    """
    flat = rows_of(database)
    count, values = flat.shape
    if float(count) ** 2 * values < WORTHWHILE or (gpu and count < GPU_WORTHWHILE):
        return None
    rng = np.random.default_rng(seed)
    pairs = hard_pairs(flat, rng)
    fitting = [blocks for blocks in BLOCKS if 2 * blocks <= values <= EXACT_VALUES * blocks]
    partitions = [learn(pairs, blocks) for blocks in fitting]
    design = fastest(database, partitions, rng, not gpu and scan.available(values))
    return build(database, design.grid, design.partitions) if design else None


# --- learning --------------------------------------------------------------------------------------


def hard_pairs(flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences float32 [M, d], M about HARD_PAIRS, of near, not nearest, images.

    These are what a bound must rule out by the narrowest margin.
    """
    sample = np.sort(rng.choice(len(flat), min(HARD_SAMPLE, len(flat)), replace=False))
    queries = rng.choice(len(sample), min(HARD_QUERIES, len(sample)), replace=False)
    measured = _all_distances(flat, sample[queries], sample)
    near = max(1, len(sample) // 100)
    nearest = np.argpartition(measured, near, axis=1)[:, :near]
    pairs = min(HARD_PAIRS, HARD_BYTES // (4 * flat.shape[1]))
    each = max(1, pairs // len(queries))
    chosen = np.take_along_axis(nearest, rng.integers(0, near, (len(queries), each)), axis=1)
    differences = flat[sample[queries]].astype(np.float32)[:, None] - flat[sample[chosen]]
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
        for some in tiles(slice(0, values), FAVOURED_PIXELS):
            favour = differences[:, some].T @ signs
            best[some] = np.abs(favour).argmax(axis=1)
            strength[some] = favour[np.arange(len(favour)), best[some]]
        # A pixel that never differs stays where it is: it is of use to no block, and too much for one.
        differs = strength != 0
        block = np.where(differs, best, block)
        sign = np.where(differs, np.sign(strength), sign)
        block = np.unique(block, return_inverse=True)[1]
        if np.bincount(block).max() > EXACT_VALUES:
            break
        learned = Partition.of(block, sign)
    return learned


def _all_distances(flat: np.ndarray, queries: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Distances [Q, N] between images at some positions, inf between an image and itself."""
    measured = np.empty((len(queries), len(positions)), dtype=np.float32)
    query_rows = flat[queries].astype(np.float32)
    for tile in tiles(slice(0, len(positions)), max(1, TILE_VALUES // flat.shape[1])):
        measured[:, tile] = distances(query_rows, flat[positions[tile]].astype(np.float32))
    measured[queries[:, None] == positions] = np.inf
    return measured


# --- choosing the grid and the levels -----------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """What an index may be built of: the codes' grid, and the levels' partitions, the coarsest first."""

    grid: Grid
    partitions: list[Partition]


@dataclass(frozen=True)
class _Trial:
    """Pairs of images on which bounds are tried: a pair is ruled out where its bound is above its limit."""

    queries: np.ndarray  # uint8 [Q, d]
    images: np.ndarray  # uint8 [N, d]
    limit: np.ndarray  # float32 [Q, N]

    @staticmethod
    def draw(database: Images, rng: np.random.Generator) -> "_Trial":
        """Limits are the distances of the nearest reference images: of other classes, or of any class."""
        flat, count = rows_of(database), len(database.ids)
        queries = rng.choice(count, min(TRIAL_QUERIES, count), replace=False)
        reference = np.sort(rng.choice(count, min(TRIAL_REFERENCE, count), replace=False))
        measured = _all_distances(flat, queries, reference)
        other_class = database.labels[queries][:, None] != database.labels[reference]
        nearest_other = np.where(other_class, measured, np.inf).min(axis=1)
        nearest_any = measured.min(axis=1)
        limit = np.where(other_class, nearest_other[:, None], nearest_any[:, None])
        some = rng.choice(len(reference), min(TRIAL_IMAGES, len(reference)), replace=False)
        return _Trial(flat[queries], flat[reference[some]], limit[:, some])

    def left_by_level(self, partition: Partition) -> float:
        """The share of all pairs that a partition's bounds leave."""
        bounds = distances(partition.project(self.queries), partition.project(self.images))
        return float((bounds <= self.limit).mean())

    def left_by_codes(self, grid: Grid) -> float:
        """The share of all pairs that a grid's bounds leave."""
        queries, images = grid.encode(self.queries), grid.encode(self.images)
        differing = np.empty(self.limit.shape, np.int32)
        grid.between(queries.rows, images.rows, differing)
        bounds = grid.step * differing.astype(np.int64) - queries.errors[:, None] - images.errors
        return float((bounds <= self.limit).mean())


@dataclass(frozen=True)
class _TriedLevel:
    """A partition, and the share of all pairs that its bounds leave."""

    partition: Partition
    left: float


def fastest(
    database: Images, partitions: list[Partition], rng: np.random.Generator, kernel: bool
) -> Design | None:
    """The design with the least expected time for a pair; None where comparing all pixels takes less.

    ``kernel``: it is for the kernel in C (see ``scan``), else for ``filter``.
    """
    count, values = rows_of(database).shape
    trial = _Trial.draw(database, rng)
    tried = [_TriedLevel(partition, trial.left_by_level(partition)) for partition in partitions]
    costs = _KERNEL if kernel else _FAISS
    best, least_ns = None, _EXACT_NS * values
    for grid in _byte_grids(partitions, trial.images) if kernel else _unary_grids(partitions, trial.images):
        left_by_codes = trial.left_by_codes(grid)
        for levels in _subsets(tried):
            if _index_bytes(grid, levels) > INDEX_SHARE * values:
                continue
            expected_ns = costs.expected_ns(grid.bits, left_by_codes, levels, count, values)
            if expected_ns < least_ns:
                best, least_ns = Design(grid, [level.partition for level in levels]), expected_ns
    return best


def _unary_grids(partitions: list[Partition], images: np.ndarray) -> Iterator[Grid]:
    for partition in partitions:
        if partition.blocks <= UNARY_BLOCKS:
            for bits in BITS:
                yield Grid.of(partition, images, bits)


def _byte_grids(partitions: list[Partition], images: np.ndarray) -> Iterator[Grid]:
    for partition in partitions:
        if partition.blocks <= BYTE_BLOCKS:
            yield Grid.of_bytes(partition, images)


def _subsets(levels: list[_TriedLevel]) -> Iterator[tuple[_TriedLevel, ...]]:
    """Every choice of levels, from none to all, in their order."""
    for size in range(len(levels) + 1):
        yield from combinations(levels, size)


def _index_bytes(grid: Grid, levels: tuple[_TriedLevel, ...]) -> float:
    """Bytes of an image's code and of its block sums, of 16 bits each."""
    return grid.bits / 8 + 2 * sum(level.partition.blocks for level in levels)


_EXACT_NS = 0.05  # for a pixel of a pair in a tile, where FAISS compares all pairs


@dataclass(frozen=True)
class _Costs:
    """Nanoseconds on one thread; only the ratios matter."""

    pair: float
    bit: float  # of a pair's codes
    kept: float  # a pair that the codes leave
    candidate: float  # at a level: its row lies anywhere in memory
    block: float  # of a candidate at a level
    level: float  # a query, for each level
    exact: float  # a distance
    value: float  # of a distance
    query: float

    def expected_ns(
        self, bits: int, left: float, levels: tuple[_TriedLevel, ...], count: int, values: int
    ) -> float:
        """Time for a pair of so many images; codes of so many bits leave a share ``left`` of the pairs."""
        time = self.pair + self.bit * bits + self.kept * left
        for level in levels:
            time += left * (self.candidate + self.block * level.partition.blocks) + self.level / count
            left = level.left
        return time + left * (self.exact + self.value * values) + self.query / count


# Measured on a Zen 5, and the kernel on a Zen 4, both with AVX-512. The kernel's limits fall as it searches:
# it meets half as many candidates again as the last limits would leave.
_FAISS = _Costs(0.6, 0.0011, 20, 10, 0.25, 15e3, 100, 0.4, 40e3)
_KERNEL = _Costs(0.3, 0.0008, 0, 30, 0.13, 0, 90, 0.03, 20e3)
