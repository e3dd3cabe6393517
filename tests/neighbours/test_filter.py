"""The filtered search finds what all pairs show, for any partition, shard and input."""

from pathlib import Path

import numpy as np
import pytest
from brute_force import CASES, brute, pairs, scrambled_index
from conftest import DATA, images

from harness.data import datasets
from harness.data.datasets import Images
from harness.data.subset import DatasetSpec
from harness.neighbours import filter, learning, nearest, partition, scan
from harness.neighbours.partition import Grid


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch):
    monkeypatch.setattr(scan, "kernel", lambda: None)


@pytest.mark.parametrize("unary", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("blocks", [(2,), (2, 3, 5)])
def test_equals_brute_force(case, blocks, unary):
    queries = CASES[case]
    found = filter.search(queries, queries, True, scrambled_index(queries, 0, blocks, unary))
    assert pairs(found) == brute(queries, queries, True)
    assert found.work.pairs == len(queries.ids) ** 2
    assert len(found.work.kept) == 1 + len(blocks)


@pytest.mark.parametrize("seed", range(40))
def test_any_input_any_partition_any_part(seed, monkeypatch):
    """Few values and small images make ties; tiny tiles and buffers make every seam."""
    rng = np.random.default_rng(seed)
    for name, size in (
        ("TILE", 7),
        ("QUERY_BLOCK", 5),
        ("BLOCK_BYTES", 48 * 4),
        ("BUFFER", 40),
        ("LEVEL_ROWS", 4),
        ("FIRST", 2),
        ("NEXT", 3),
    ):
        monkeypatch.setattr(filter, name, size)
    classes = int(rng.integers(2, 9))
    database = images(seed, int(rng.integers(classes, 120)), classes, (1, 3, 4), int(rng.choice([2, 3, 256])))
    same = bool(rng.integers(2))
    queries = database if same else images(seed + 1000, 30, classes, (1, 3, 4), 3)
    blocks = tuple(rng.integers(1, 12, rng.integers(1, 4)).tolist())
    of = scrambled_index(database, seed, blocks, unary=seed % 4 != 0)
    cut = int(rng.integers(0, len(database.ids) + 1))
    found = [filter.search(queries, database, same, of, part) for part in (slice(0, cut), slice(cut, None))]
    merged = {
        "other_class": found[0].other_class.merge(found[1].other_class),
        "any_class": found[0].any_class.merge(found[1].any_class),
    }
    whole = filter.search(queries, database, same, of)
    expected = nearest.search_tiled(queries, database, same)
    for kind, nearer in merged.items():
        for one in (nearer, getattr(whole, kind)):
            assert np.array_equal(one.distance, getattr(expected, kind).distance)
            assert np.array_equal(one.id, getattr(expected, kind).id)


def test_duplicates_across_classes():
    one = images(9, 20, 2)
    twice = Images(
        np.concatenate([one.pixels, one.pixels]), np.concatenate([one.labels, 1 - one.labels]), np.arange(40)
    )
    assert pairs(filter.search(twice, twice, True, scrambled_index(twice, 0))) == brute(twice, twice, True)


def test_large_images():
    data = images(5, 12, 3, shape=(3, 64, 64))
    assert pairs(filter.search(data, data, True, scrambled_index(data, 0, (48, 300)))) == brute(
        data, data, True
    )


@pytest.mark.parametrize("odd", [1, 3])
def test_sums_past_2_24_are_exact(odd):
    """Bounds whose float32 sum rounds: (all but) white images, far from black ones of another class."""
    pixels = np.zeros((6, 3, 224, 224), np.uint8)
    pixels[1:] = 255
    for image in range(2, 6):
        pixels[image].reshape(-1)[: odd * (image % 3)] = 254
    data = Images(pixels, np.array([0, 1, 1, 1, 1, 1]), np.arange(6) * 2)
    of = scrambled_index(data, 0, (4, 37, 500))
    assert pairs(filter.search(data, data, True, of)) == brute(data, data, True)


def test_training_digits_with_a_learned_partition():
    digits = datasets.load(DatasetSpec(source="digits"), None).train
    hard = learning.hard_pairs(nearest.rows_of(digits), np.random.default_rng(0))
    coarse, fine = learning.learn(hard, 16), learning.learn(hard, 32)
    of = partition.build(digits, Grid.of(coarse, nearest.rows_of(digits), 256), [coarse, fine])
    found = filter.search(digits, digits, True, of)
    assert pairs(found) == brute(digits, digits, True)
    assert found.work.exact < 0.1 * found.work.pairs


@pytest.mark.data
def test_ten_thousand_mnist_images():
    mnist = datasets.load(
        DatasetSpec(source="mnist", train_limit=10_000, test_limit=10), Path(str(DATA))
    ).train
    of = learning.index(mnist)
    assert of is not None
    some = mnist.take(np.arange(0, 10_000, 33))
    found = filter.search(some, mnist, True, of)
    assert pairs(found) == pairs(nearest.search_tiled(some, mnist, True))
    assert found.work.exact < 0.01 * found.work.pairs
