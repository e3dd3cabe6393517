"""Learned partitions bound l1 distances better than others; an index is made where it saves time."""

import numpy as np
from conftest import images

from harness.neighbours import learning
from harness.neighbours.partition import Partition


def test_learned_blocks_keep_more_than_neighbouring_pixels():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(8, 60))
    differences = (rng.normal(size=(500, 8)) @ shapes + 0.1 * rng.normal(size=(500, 60))).astype(np.float32)
    contiguous = Partition.of(np.arange(60) * 8 // 60, np.ones(60))
    kept = [np.abs(one.project(differences)).sum() for one in (learning.learn(differences, 8), contiguous)]
    assert kept[0] > 1.5 * kept[1]


def test_learning_from_constant_images():
    assert len(learning.learn(np.zeros((40, 12), np.float32), 4).starts) == 4


def test_few_images_need_no_index():
    assert learning.index(images(0, 500, 3)) is None


def test_images_without_structure_need_no_index(monkeypatch):
    """Random pixels: no bound rules anything out, so all pairs are compared."""
    monkeypatch.setattr(learning, "WORTHWHILE", 0)
    assert learning.index(images(0, 300, 3, (3, 10, 10))) is None


def test_the_index_follows_from_the_images_alone(monkeypatch):
    monkeypatch.setattr(learning, "WORTHWHILE", 0)
    rng = np.random.default_rng(0)
    data = images(0, 3000, 2, (1, 40, 40))
    data.pixels[:] = (rng.integers(0, 85, (3000, 3)) @ rng.integers(0, 2, (3, 1600))).reshape(3000, 1, 40, 40)
    one, two = (learning.index(data) for _ in range(2))
    assert one is not None
    assert one.codes.tobytes() == two.codes.tobytes()
    assert [level.rows.tobytes() for level in one.levels] == [level.rows.tobytes() for level in two.levels]
