"""The search over all pairs against brute force in integers, whatever its tiles."""

import numpy as np
from conftest import images
from test_bound import brute

from harness import nearest
from harness.nearest import Classes, Found, Nearest, Work, around


def pairs(found: Found) -> dict[str, list[tuple[int, int]]]:
    """(distance, id) of each query's neighbours, as ``brute`` gives them."""
    kinds = {"other_class": found.other_class, "any_class": found.any_class}
    return {
        name: list(zip(kind.distance.tolist(), kind.id.tolist(), strict=True)) for name, kind in kinds.items()
    }


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


def test_classes_are_slices_in_ascending_position():
    labels = np.array([2, 0, 2, 1, 0])
    classes = Classes.of(labels)
    assert classes.order.tolist() == [1, 4, 3, 0, 2]
    assert classes.slices(slice(None)) == [(0, slice(0, 2)), (1, slice(2, 3)), (2, slice(3, 5))]
    assert classes.slices(slice(1, 3)) == [(0, slice(0, 1)), (2, slice(4, 5))]


def test_other_classes_are_two_slices():
    slices = Classes.of(np.array([2, 0, 2, 1, 0, 3])).slices(slice(None))
    assert around(slices, 2) == ([slice(0, 3), slice(5, 6)], slice(3, 5))
    assert around(slices, 0) == ([slice(0, 0), slice(2, 6)], slice(0, 2))
    assert around(slices, 9) == ([slice(0, 6)], slice(0, 0))


def test_work_adds_up():
    assert Work(5, (3,), 2) + Work(5, (4, 1)) == Work(10, (7, 1), 2)
