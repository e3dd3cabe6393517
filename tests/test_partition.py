"""Block sums bound l1 distances from below, for any partition; a learned one bounds them better."""

import numpy as np
import pytest
from conftest import images
from test_filter import scrambled

from harness import partition
from harness.nearest import rows_of
from harness.partition import Grid, Partition


@pytest.mark.parametrize("seed", range(10))
def test_never_above_the_distance(seed):
    rows = rows_of(images(seed, 30, 2, (3, 6, 6)))
    projected = scrambled(108, 1 + 3 * seed, seed).project(rows)
    bound = np.abs(projected[:, None] - projected[None]).sum(2)
    exact = np.abs(rows[:, None].astype(int) - rows[None]).sum(2)
    assert (bound <= exact).all()


@pytest.mark.parametrize("seed", range(10))
def test_codes_are_never_above_the_distance(seed):
    """Also where the grid was laid over other images, and with fewer bits than blocks."""
    rows, others = (
        rows_of(images(seed, 30, 2, (3, 6, 6))),
        rows_of(images(50 + seed, 20, 2, (3, 6, 6), values=1 + 20 * seed)),
    )
    grid = Grid.of(scrambled(108, 1 + 3 * seed, seed), others, 10 + 60 * seed)
    assert grid.lines.sum() <= 10 + 60 * seed
    codes, errors = grid.encode(rows)
    assert codes.shape[1] % 8 == 0
    differ = np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(2).astype(int)
    exact = np.abs(rows[:, None].astype(int) - rows[None]).sum(2)
    assert (grid.step * differ - errors[:, None] - errors[None] <= exact).all()


def test_projection_is_the_signed_block_sum():
    block, sign = np.array([4, 0, 4, 2]), np.array([1, -1, -1, 1])
    rows = np.array([[1, 2, 3, 4], [255, 0, 0, 9]], np.uint8)
    assert Partition.of(block, sign).project(rows).tolist() == [[-2, 4, -2], [0, 9, 255]]


def test_learned_blocks_keep_more_than_neighbouring_pixels():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(8, 60))
    differences = (rng.normal(size=(500, 8)) @ shapes + 0.1 * rng.normal(size=(500, 60))).astype(np.float32)
    contiguous = Partition.of(np.arange(60) * 8 // 60, np.ones(60))
    kept = [np.abs(one.project(differences)).sum() for one in (partition.learn(differences, 8), contiguous)]
    assert kept[0] > 1.5 * kept[1]


def test_learning_from_constant_images():
    assert len(partition.learn(np.zeros((40, 12), np.float32), 4).starts) == 4


def test_few_images_need_no_index():
    assert partition.index(images(0, 500, 3)) is None


def test_images_without_structure_need_no_index(monkeypatch):
    """Random pixels: no bound rules anything out, so all pairs are compared."""
    monkeypatch.setattr(partition, "WORTHWHILE", 0)
    assert partition.index(images(0, 300, 3, (3, 10, 10))) is None


def test_the_index_follows_from_the_images_alone(monkeypatch):
    monkeypatch.setattr(partition, "WORTHWHILE", 0)
    rng = np.random.default_rng(0)
    data = images(0, 3000, 2, (1, 40, 40))
    data.pixels[:] = (rng.integers(0, 85, (3000, 3)) @ rng.integers(0, 2, (3, 1600))).reshape(3000, 1, 40, 40)
    one, two = (partition.index(data) for _ in range(2))
    assert one is not None
    assert one.codes.tobytes() == two.codes.tobytes()
    assert [level.rows.tobytes() for level in one.levels] == [level.rows.tobytes() for level in two.levels]
