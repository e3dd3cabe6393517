"""The bound against brute force in integers, whatever the sharding; Table II's values on real MNIST."""

from pathlib import Path

import numpy as np
import pytest
from brute_force import CASES, brute
from conftest import DATA, images

from harness.data.datasets import Images
from harness.errors import HarnessError
from harness.neighbours import nearest, partition
from harness.neighbours.partition import Grid, Index, Partition
from harness.neighbours.shards import bound_rows, search_shard, shards_of


def compute(
    queries: Images, database: Images, same: bool, index: Index | None = None, **sharding: int
) -> dict[str, list[tuple[int, int]]]:
    values = int(np.prod(queries.pixels.shape[1:]))

    # Results in reverse: the order of shards must not matter.
    work = shards_of(queries, database, **sharding)[::-1]
    rows = bound_rows(
        queries,
        database,
        ((shard, search_shard(queries, database, same, index, shard)) for shard in work),
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
    from harness.data import datasets
    from harness.data.subset import DatasetSpec

    mnist = datasets.load(DatasetSpec(source="mnist", train_limit=2000, test_limit=10), Path(str(DATA))).train
    some = mnist.take(np.arange(0, 2000, 37))
    assert compute(some, mnist, True) == brute(some, mnist, True)
