"""A database in order of class: for queries of one class, all other classes are then two slices.

A *row* is a position in that order, a *position* one in the database as it came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tile:
    """Some neighbouring rows, all of the queries' own class or all of other classes."""

    rows: slice
    own_class: bool


@dataclass(frozen=True)
class ClassRows:
    """The rows of one class's images."""

    label: int
    rows: slice


@dataclass(frozen=True)
class RowsByClass:
    """The rows of a database as the queries of one class see them."""

    other_classes: tuple[slice, ...]  # as few as they make: those before the own class, those after it
    own_class: slice  # empty where the database has no image of it

    def tiles(self, size: int) -> Iterator[Tile]:
        """All rows in tiles of at most ``size``, those of the own class last.

        So the distances in other classes are known when the own class is looked at: an image of the own
        class matters only where it is nearer than those, as the nearest of any class.
        """
        for rows in self.other_classes:
            for tile in tiles(rows, size):
                yield Tile(tile, own_class=False)
        for tile in tiles(self.own_class, size):
            yield Tile(tile, own_class=True)


@dataclass(frozen=True)
class Classes:
    """The order of a database's images by class.

    ``order`` int64 [N]: positions sorted by class, ascending in each. Class i has ``labels[i]`` and the
    rows ``starts[i]`` to ``starts[i + 1]`` of the order.
    """

    labels: np.ndarray
    starts: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(labels: np.ndarray) -> "Classes":
        order = np.argsort(labels, kind="stable")
        distinct, starts = np.unique(labels[order], return_index=True)
        return Classes(distinct, np.append(starts, len(labels)), order)

    def ranges(self, part: slice) -> list[ClassRows]:
        """The rows of each class's images at the positions ``part``, without classes that have none there."""
        first, last, _ = part.indices(len(self.order))
        ranges = []
        for index, label in enumerate(self.labels.tolist()):
            low, high = self.starts[index : index + 2].tolist()
            start, stop = (low + np.searchsorted(self.order[low:high], (first, last))).tolist()
            if start < stop:
                ranges.append(ClassRows(label, slice(start, stop)))
        return ranges


def split(ranges: list[ClassRows], label: int) -> RowsByClass:
    """The rows of all classes but one, in as few slices as they make, and the rows of that one."""
    other_classes: list[slice] = []
    own_class = slice(0, 0)
    for one in ranges:
        if one.label == label:
            own_class = one.rows
        elif other_classes and other_classes[-1].stop == one.rows.start:
            other_classes[-1] = slice(other_classes[-1].start, one.rows.stop)
        else:
            other_classes.append(one.rows)
    return RowsByClass(tuple(other_classes), own_class)


def blocks_by_class(labels: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(label, positions) of blocks of at most ``size`` images of one class."""
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), size):
            yield label, members[start : start + size]


def tiles(rows: slice, size: int) -> Iterator[slice]:
    """A slice cut into slices of at most ``size`` rows."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))
