"""The bound against brute force in integers, whatever the sharding; Table II's values on real MNIST."""

from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, images

from harness import bound, nearest, partition
from harness.datasets import Images
from harness.errors import HarnessError
from harness.partition import Grid, Index, Partition


def brute(queries: Images, database: Images, same: bool) -> dict[str, list[tuple[int, int]]]:
    """(distance, id) of each query's nearest by integer arithmetic: of another class, of any class."""
    found: dict[str, list[tuple[int, int]]] = {"other_class": [], "any_class": []}
    flat = database.pixels.reshape(len(database.ids), -1).astype(np.int64)
    for pixels, label, identity in zip(queries.pixels, queries.labels, queries.ids, strict=True):
        distances = np.abs(flat - pixels.reshape(1, -1).astype(np.int64)).sum(1)
        pairs = [
            (int(d), int(i), int(y)) for d, i, y in zip(distances, database.ids, database.labels, strict=True)
        ]
        found["other_class"].append(min((d, i) for d, i, y in pairs if y != label))
        found["any_class"].append(min((d, i) for d, i, _ in pairs if not (same and i == identity)))
    return found


def compute(
    queries: Images, database: Images, same: bool, index: Index | None = None, **sharding: int
) -> dict[str, list[tuple[int, int]]]:
    values = int(np.prod(queries.pixels.shape[1:]))

    # Results in reverse: the order of shards must not matter.
    work = bound.shards(queries, database, **sharding)[::-1]
    rows = bound.rows(
        queries,
        database,
        ((shard, bound.search_shard(queries, database, same, index, shard)) for shard in work),
    )
    found: dict[str, list[tuple[int, int]]] = {}
    for kind in ("other_class", "any_class"):
        of_kind = rows["neighbours"] == kind
        assert np.array_equal(rows["image_id"][of_kind], queries.ids)
        distance = rows["distance"][of_kind] * 255 * values
        assert np.allclose(distance, distance.round(), atol=1e-6)
        found[kind] = list(
            zip(distance.round().astype(int).tolist(), rows["neighbour_id"][of_kind].tolist(), strict=True)
        )
    return found


CASES = {
    "random": images(0, 60, 4),
    "two classes": images(1, 30, 2),
    "one image a class": images(2, 8, 8),
    "ties everywhere": images(3, 60, 3, values=2),
    "constant": Images(np.full((12, 1, 3, 3), 7, np.uint8), np.arange(12) % 3, np.arange(12)),
    "three channels": images(4, 40, 3, shape=(3, 5, 7)),
    "sums past 2^24": images(5, 6, 2, shape=(3, 160, 160)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case):
    queries = CASES[case]
    assert compute(queries, queries, True) == brute(queries, queries, True)


def test_sums_past_2_24_are_exact():
    """Distances whose float32 sum would round: black against white with one odd pixel."""
    pixels = np.zeros((3, 3, 224, 224), np.uint8)
    pixels[1:] = 255
    pixels[2, 0, 0, 0] = 254
    one = Images(pixels, np.array([0, 1, 1]), np.arange(3))
    assert compute(one, one, True)["other_class"][0] == (255 * 150528 - 1, 2)


@pytest.mark.parametrize("database_parts", [1, 2, 7])
@pytest.mark.parametrize("query_block", [1, 13, 1024])
@pytest.mark.parametrize("indexed", [False, True])
def test_sharding_changes_nothing(query_block, database_parts, indexed):
    queries, database = images(6, 50, 3, values=4), images(7, 80, 3, values=4)
    expected = brute(queries, database, False)
    blocks = Partition.of(np.arange(16) // 4, np.ones(16))
    index = (
        partition.build(database, Grid.of(blocks, nearest.rows_of(database), 64), [blocks])
        if indexed
        else None
    )
    assert (
        compute(queries, database, False, index, query_block=query_block, database_parts=database_parts)
        == expected
    )
    same = brute(database, database, True)
    assert (
        compute(database, database, True, index, query_block=query_block, database_parts=database_parts)
        == same
    )


def test_duplicates_across_classes_have_distance_zero():
    one = images(9, 20, 2)
    twice = Images(
        np.concatenate([one.pixels, one.pixels]), np.concatenate([one.labels, 1 - one.labels]), np.arange(40)
    )
    assert [d for d, _ in compute(twice, twice, True)["other_class"]] == [0] * 40


def test_no_neighbour_of_another_class():
    alone = Images(np.zeros((3, 1, 4, 4), np.uint8), np.zeros(3, np.int64), np.arange(3))
    with pytest.raises(HarnessError, match="no neighbour of another class"):
        compute(alone, alone, True)


@pytest.mark.data
def test_real_mnist_against_brute_force():
    from harness import datasets, spec

    mnist = datasets.load(
        spec.DatasetSpec(source="mnist", train_limit=2000, test_limit=10), Path(str(DATA)), 0
    ).train
    some = mnist.take(np.arange(0, 2000, 37))
    assert compute(some, mnist, True) == brute(some, mnist, True)
