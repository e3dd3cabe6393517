"""Nearest neighbours by integer arithmetic, which every search must equal, and inputs that are hard on it."""

import numpy as np
from conftest import images

from harness.data.datasets import Images
from harness.neighbours.nearest import Neighbours, rows_of
from harness.neighbours.partition import Grid, Index, Partition, build

CASES = {
    "random": images(0, 60, 4),
    "two classes": images(1, 30, 2),
    "one image a class": images(2, 8, 8),
    "ties everywhere": images(3, 60, 3, values=2),
    "constant": Images(np.full((12, 1, 3, 3), 7, np.uint8), np.arange(12) % 3, np.arange(12)),
    "three channels": images(4, 40, 3, shape=(3, 5, 7)),
    "sums past 2^24": images(5, 6, 2, shape=(3, 160, 160)),
}


def brute(queries: Images, database: Images, same: bool) -> dict[str, list[tuple[int, int]]]:
    """(distance, id) of each query's nearest by integer arithmetic: of another class, of any class."""
    nearest: dict[str, list[tuple[int, int]]] = {"other_class": [], "any_class": []}
    flat = database.pixels.reshape(len(database.ids), -1).astype(np.int64)
    for pixels, label, identity in zip(queries.pixels, queries.labels, queries.ids, strict=True):
        distances = np.abs(flat - pixels.reshape(1, -1).astype(np.int64)).sum(1)
        pairs = [
            (int(d), int(i), int(y)) for d, i, y in zip(distances, database.ids, database.labels, strict=True)
        ]
        nearest["other_class"].append(min((d, i) for d, i, y in pairs if y != label))
        nearest["any_class"].append(min((d, i) for d, i, _ in pairs if not (same and i == identity)))
    return nearest


def pairs(neighbours: Neighbours) -> dict[str, list[tuple[int, int]]]:
    """(distance, id) of each query's neighbours, as ``brute`` gives them."""
    kinds = {"other_class": neighbours.other_class, "any_class": neighbours.any_class}
    return {
        name: list(zip(kind.distance.tolist(), kind.id.tolist(), strict=True)) for name, kind in kinds.items()
    }


def scrambled(values: int, blocks: int, seed: int) -> Partition:
    """A partition of no sense: random blocks, random signs."""
    rng = np.random.default_rng(seed)
    return Partition.of(rng.integers(0, blocks, values), rng.choice([-1.0, 1.0], values))


def scrambled_index(
    database: Images, seed: int, blocks: tuple[int, ...] = (2, 3, 5), unary: bool = True
) -> Index:
    """An index of no sense: it rules out little, and nothing wrongly."""
    values = int(np.prod(database.pixels.shape[1:]))
    partitions = [scrambled(values, count, seed + count) for count in blocks]
    sample = rows_of(database)[:20]
    grid = Grid.of(partitions[0], sample, 4 + seed % 100) if unary else Grid.of_bytes(partitions[0], sample)
    return build(database, grid, partitions[seed % 2 :])
