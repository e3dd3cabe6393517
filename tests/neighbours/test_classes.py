"""A database in order of class: the other classes' images are two slices of it."""

import numpy as np

from harness.neighbours.classes import Classes, ClassRows, Tile, split


def test_classes_are_slices_in_ascending_position():
    labels = np.array([2, 0, 2, 1, 0])
    classes = Classes.of(labels)
    assert classes.order.tolist() == [1, 4, 3, 0, 2]
    assert classes.ranges(slice(None)) == [
        ClassRows(0, slice(0, 2)),
        ClassRows(1, slice(2, 3)),
        ClassRows(2, slice(3, 5)),
    ]
    assert classes.ranges(slice(1, 3)) == [ClassRows(0, slice(0, 1)), ClassRows(2, slice(4, 5))]


def test_other_classes_are_two_slices():
    ranges = Classes.of(np.array([2, 0, 2, 1, 0, 3])).ranges(slice(None))
    rows = {label: split(ranges, label) for label in (2, 0, 9)}
    assert (rows[2].other_classes, rows[2].own_class) == ((slice(0, 3), slice(5, 6)), slice(3, 5))
    assert (rows[0].other_classes, rows[0].own_class) == ((slice(2, 6),), slice(0, 2))
    assert (rows[9].other_classes, rows[9].own_class) == ((slice(0, 6),), slice(0, 0))


def test_the_own_class_is_the_last_to_be_searched():
    ranges = Classes.of(np.array([2, 0, 2, 1, 0, 3])).ranges(slice(None))
    assert list(split(ranges, 0).tiles(3)) == [
        Tile(slice(2, 5), own_class=False),
        Tile(slice(5, 6), own_class=False),
        Tile(slice(0, 2), own_class=True),
    ]
