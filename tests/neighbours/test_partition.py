"""Block sums, and the codes made of them, bound l1 distances from below, for any partition."""

import numpy as np
import pytest
from brute_force import scrambled
from conftest import images

from harness.neighbours.nearest import rows_of
from harness.neighbours.partition import Grid, Partition


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
    codes = grid.encode(rows)
    assert codes.rows.shape[1] % 8 == 0
    differ = np.unpackbits(codes.rows[:, None] ^ codes.rows[None], axis=2).sum(2).astype(int)
    exact = np.abs(rows[:, None].astype(int) - rows[None]).sum(2)
    assert (grid.step * differ - codes.errors[:, None] - codes.errors[None] <= exact).all()


@pytest.mark.parametrize("seed", range(10))
def test_codes_of_bytes_are_never_above_the_distance(seed):
    """Nor is an image far from its rounding, but where the grid was laid over darker ones."""
    rows, others = (
        rows_of(images(seed, 30, 2, (3, 6, 6))),
        rows_of(images(50 + seed, 20, 2, (3, 6, 6), values=1 + 20 * seed)),
    )
    for of in (rows, others):
        grid = Grid.of_bytes(scrambled(108, 1 + 3 * seed, seed), of)
        codes = grid.encode(rows)
        assert codes.rows.shape[1] % 8 == 0
        differ = np.empty((len(rows), len(rows)), np.int32)
        grid.between(codes.rows, codes.rows, differ)
        assert (differ == np.abs(codes.rows[:, None].astype(int) - codes.rows[None]).sum(2)).all()
        exact = np.abs(rows[:, None].astype(int) - rows[None]).sum(2)
        assert (grid.step * differ - codes.errors[:, None] - codes.errors[None] <= exact).all()
        if of is rows:
            assert (2 * codes.errors <= grid.step * grid.partition.blocks).all()


def test_projection_is_the_signed_block_sum():
    block, sign = np.array([4, 0, 4, 2]), np.array([1, -1, -1, 1])
    rows = np.array([[1, 2, 3, 4], [255, 0, 0, 9]], np.uint8)
    assert Partition.of(block, sign).project(rows).tolist() == [[-2, 4, -2], [0, 9, 255]]
