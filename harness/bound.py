"""The bound of every image (paper III-A): its exact l1 distance to the nearest image of another class.

sigma_i = d_i / (2 k) (eq. 3), d_i the mean absolute pixel difference (eq. 2). Two kinds of neighbour
are kept: of another class, which the text defines, and of any class, which Table II's numbers fit.
The work is cut into shards, whose results merge by minimum in any order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.datasets import Images
from harness.errors import HarnessError
from harness.filter import search
from harness.nearest import FAR, Found, Nearest, search_tiled
from harness.partition import Index


@dataclass(frozen=True)
class Shard:
    """One piece of work: some queries against a contiguous part of the database."""

    queries: np.ndarray  # positions in the query split
    database: slice


def shards(queries: Images, database: Images, query_block: int = 512, database_parts: int = 1) -> list[Shard]:
    """Class-contiguous ranges of queries, times contiguous parts of the database."""
    order = np.argsort(queries.labels, kind="stable")
    cuts = np.linspace(0, len(database.ids), database_parts + 1).astype(int)
    parts = [slice(int(low), int(high)) for low, high in zip(cuts, cuts[1:], strict=False)]
    return [
        Shard(order[start : start + query_block], part)
        for start in range(0, len(order), query_block)
        for part in parts
    ]


def search_shard(queries: Images, database: Images, same: bool, index: Index | None, shard: Shard) -> Found:
    """The nearest neighbours within one shard, by the database's index where there is one: what a worker runs."""
    some = queries.take(shard.queries)
    if index is None:
        return search_tiled(some, database, same, shard.database)
    return search(some, database, same, index, shard.database)


def rows(queries: Images, database: Images, found: Iterable[tuple[Shard, Found]]) -> dict[str, Any]:
    """Rows of the table ``bound`` for every query, both kinds of neighbour, from what was found in each shard, in any order.

    Raises HarnessError where an image has no neighbour of another class.
    """
    kinds = {"other_class": Nearest.none(len(queries.ids)), "any_class": Nearest.none(len(queries.ids))}
    for shard, part in found:
        for kind, nearest in kinds.items():
            nearest.improve(shard.queries, getattr(part, kind))
    lonely = np.flatnonzero(kinds["other_class"].distance == FAR)
    if len(lonely):
        raise HarnessError(
            f"{len(lonely)} images (first: id {queries.ids[lonely[0]]}, class {queries.labels[lonely[0]]}) have no neighbour "
            "of another class: the bound needs at least two classes among the training images"
        )
    values = int(np.prod(queries.pixels.shape[1:]))
    position_of = np.argsort(database.ids)
    made: dict[str, Any] = {
        name: []
        for name in ("neighbours", "image_id", "label", "neighbour_id", "neighbour_label", "distance")
    }
    for kind, nearest in kinds.items():
        at = position_of[np.searchsorted(database.ids, nearest.id, sorter=position_of)]
        made["neighbours"].append(np.full(len(queries.ids), kind, dtype=object))
        made["image_id"].append(queries.ids)
        made["label"].append(queries.labels)
        made["neighbour_id"].append(nearest.id)
        made["neighbour_label"].append(database.labels[at])
        made["distance"].append(nearest.distance / (255 * values))
    return {name: np.concatenate(parts) for name, parts in made.items()}
