"""The bound of every image (paper III-A): its exact l1 distance to the nearest image of another class.

sigma_i = d_i / (2 k) (eq. 3), d_i the mean absolute pixel difference (eq. 2). Two kinds of neighbour
are kept: of another class, which the text defines, and of any class, which Table II's numbers fit.
The work is cut into shards, whose results merge by minimum in any order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.data.datasets import Images
from harness.errors import HarnessError
from harness.neighbours.filter import search
from harness.neighbours.nearest import FAR, Nearest, Neighbours, search_tiled
from harness.neighbours.partition import Index


@dataclass(frozen=True)
class Shard:
    """One piece of work: some queries against a contiguous part of the database."""

    queries: np.ndarray  # positions in the query split
    database: slice


def shards_of(
    queries: Images, database: Images, query_block: int = 512, database_parts: int = 1
) -> list[Shard]:
    """Class-contiguous ranges of queries, times contiguous parts of the database."""
    order = np.argsort(queries.labels, kind="stable")
    cuts = np.linspace(0, len(database.ids), database_parts + 1).astype(int).tolist()
    shards = []
    for start in range(0, len(order), query_block):
        for low, high in zip(cuts, cuts[1:], strict=False):
            shards.append(Shard(order[start : start + query_block], slice(low, high)))
    return shards


def search_shard(
    queries: Images, database: Images, same: bool, index: Index | None, shard: Shard
) -> Neighbours:
    """The nearest neighbours within one shard, by the database's index where there is one: a task."""
    some = queries.take(shard.queries)
    if index is None:
        return search_tiled(some, database, same, shard.database)
    return search(some, database, same, index, shard.database)


def bound_rows(
    queries: Images, database: Images, results: Iterable[tuple[Shard, Neighbours]]
) -> dict[str, Any]:
    """Rows of the table ``bound``: every query's neighbour of another class, then every query's of any class.

    ``results``: what each shard's search returned, in any order. Distances are means over pixels in [0, 1].
    Raises HarnessError where an image has no neighbour of another class.
    """
    count, values = len(queries.ids), int(np.prod(queries.pixels.shape[1:]))
    other_class, any_class = Nearest.none(count), Nearest.none(count)
    for shard, neighbours in results:
        other_class.improve(shard.queries, neighbours.other_class)
        any_class.improve(shard.queries, neighbours.any_class)
    _check_all_have_one(queries, other_class)
    neighbour_id = np.concatenate([other_class.id, any_class.id])
    distance = np.concatenate([other_class.distance, any_class.distance])
    return {
        "neighbours": np.repeat(np.array(["other_class", "any_class"], dtype=object), count),
        "image_id": np.tile(queries.ids, 2),
        "label": np.tile(queries.labels, 2),
        "neighbour_id": neighbour_id,
        "neighbour_label": database.labels[_positions(database.ids, neighbour_id)],
        "distance": distance / (255 * values),
    }


def _check_all_have_one(queries: Images, other_class: Nearest) -> None:
    without = np.flatnonzero(other_class.distance == FAR)
    if len(without):
        first = f"id {queries.ids[without[0]]}, class {queries.labels[without[0]]}"
        raise HarnessError(
            f"{len(without)} images (first: {first}) have no neighbour "
            "of another class: the bound needs at least two classes among the training images"
        )


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted id lies among the ids."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]
