"""The search over all pairs against brute force in integers, whatever its tiles."""

import numpy as np
from brute_force import brute, pairs
from conftest import images

from harness.neighbours import nearest
from harness.neighbours.nearest import Nearest, Work


def test_small_tiles(monkeypatch):
    monkeypatch.setattr(nearest, "TILE_BYTES", 200)
    monkeypatch.setattr(nearest, "QUERY_BLOCK", 3)
    queries = images(8, 40, 3, values=3)
    found = nearest.search_tiled(queries, queries, True)
    assert pairs(found) == brute(queries, queries, True)
    assert found.work == Work(pairs=1600, exact=1600)


def test_merge_is_associative_and_breaks_ties_by_id():
    rng = np.random.default_rng(0)
    a, b, c = (Nearest(rng.integers(0, 3, 50), rng.integers(0, 9, 50)) for _ in range(3))
    left, right = a.merge(b).merge(c), c.merge(a.merge(b))
    assert np.array_equal(left.distance, right.distance)
    assert np.array_equal(left.id, right.id)
    expected = [
        min(pairs) for pairs in zip(*(zip(x.distance, x.id, strict=True) for x in (a, b, c)), strict=True)
    ]
    assert list(zip(left.distance, left.id, strict=True)) == expected


def test_work_adds_up():
    assert Work(5, (3,), 2) + Work(5, (4, 1)) == Work(10, (7, 1), 2)
