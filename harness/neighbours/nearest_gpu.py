"""The exact nearest neighbours of ``nearest`` on a GPU: of all pairs, or of those that one bound leaves.

The distances come from FAISS's GPU kernel where there is one, else from torch. What a GPU finds first
among equals is not defined, so the smallest id is taken explicitly.
"""

from collections.abc import Callable

import numpy as np
import torch

from harness.data.datasets import Images
from harness.neighbours.classes import Classes, Tile, blocks_by_class, split, tiles
from harness.neighbours.nearest import (
    ALL,
    EXACT_VALUES,
    FAR,
    Nearest,
    NearestByClass,
    Neighbours,
    Work,
    gpu_distances,
    rows_of,
)
from harness.neighbours.partition import Index, Partition, slack

QUERY_BLOCK = 512
TILE_BYTES = 1 << 28  # of float32 database rows
PAIR_BYTES = 1 << 28  # of float32 differences of listed pairs

_Distances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Database:
    """A database on a device, in order of class, with the first level of its index where it has one."""

    def __init__(self, images: Images, index: Index | None, device: torch.device) -> None:
        self._device, self._classes = device, Classes.of(images.labels)
        self._rows = _copied(rows_of(images), self._classes.order, device)
        self._ids = torch.from_numpy(images.ids[self._classes.order]).to(device)
        self._partition: Partition | None = None
        self._projected: torch.Tensor | None = None
        if index is not None and index.levels:
            level = index.levels[0]
            self._partition = level.partition
            self._projected = torch.from_numpy(np.array(level.rows)).to(device)
        self._distances: _Distances = (gpu_distances() if device.type != "cpu" else None) or _torch_distances

    def search(self, queries: Images, same: bool, part: slice = ALL) -> Neighbours:
        """What ``nearest.search_tiled`` finds, for queries uint8 [N, C, H, W], at the positions ``part``."""
        nearest, work = NearestByClass.none(len(queries.ids)), Work()
        flat, ranges = rows_of(queries), self._classes.ranges(part)
        tile_size = max(1, TILE_BYTES // (4 * flat.shape[1]))
        for label, members in blocks_by_class(queries.labels, QUERY_BLOCK):
            ids = queries.ids[members] if same else None
            block = _Block(flat[members], ids, self._partition, self._device)
            for tile in split(ranges, label).tiles(tile_size):
                if self._projected is None:
                    work += self._measure_tile(block, tile)
                else:
                    work += self._filter_tile(block, tile, self._projected)
            nearest.improve(members, block.nearest_on_host())
        return nearest.neighbours(work)

    def _measure_tile(self, block: "_Block", tile: Tile) -> Work:
        """Measure the distances of all pairs of a block and a tile."""
        ids = self._ids[tile.rows]
        measured = self._all_distances(block.pixels, self._rows[tile.rows].float())
        block.exclude_itself(measured, ids, tile)
        block.nearest(tile).improve_all(measured, ids)
        return Work(measured.numel(), (), measured.numel())

    def _filter_tile(self, block: "_Block", tile: Tile, projected: torch.Tensor) -> Work:
        """Bound the distances of all pairs of a block and a tile; measure those that may be nearest."""
        bounds = self._distances(block.projected, projected[tile.rows].float())
        block.exclude_itself(bounds, self._ids[tile.rows], tile)
        # The image of the lowest bound first: it lowers the query's limit for all others.
        lowest = bounds.argmin(dim=1)
        query = torch.arange(len(lowest), device=self._device)
        exists = torch.isfinite(bounds[query, lowest])
        exact = self._measure_pairs(block, tile, query[exists], lowest[exists])
        # A float32 sum may exceed the true bound by its rounding: the limit is raised by as much.
        limit = (block.limit(tile).double() * slack(projected.shape[1])).float()
        query, column = (bounds <= limit[:, None]).nonzero(as_tuple=True)
        exact += self._measure_pairs(block, tile, query, column)
        return Work(bounds.numel(), (len(query),), exact)

    def _measure_pairs(self, block: "_Block", tile: Tile, query: torch.Tensor, column: torch.Tensor) -> int:
        """Measure some pairs of queries and images of a tile, piece by piece; how many."""
        sum_type = torch.float32 if self._rows.shape[1] <= EXACT_VALUES else torch.float64
        for some in tiles(slice(0, len(query)), max(1, PAIR_BYTES // (4 * self._rows.shape[1]))):
            rows = column[some] + tile.rows.start
            differences = block.pixels[query[some]] - self._rows[rows]
            measured = differences.abs().sum(dim=1, dtype=sum_type)
            block.nearest(tile).improve_some(query[some], measured.long(), self._ids[rows])
        return len(query)

    def _all_distances(self, queries: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
        """l1 distances [Q, T] of rows of 0..255, exact however long they are."""
        if queries.shape[1] <= EXACT_VALUES:
            return self._distances(queries, tile)
        total = torch.zeros((len(queries), len(tile)), dtype=torch.float64, device=self._device)
        for piece in tiles(slice(0, queries.shape[1]), EXACT_VALUES):
            total += self._distances(queries[:, piece].contiguous(), tile[:, piece].contiguous())
        return total


class _Block:
    """Queries of one class on a device, and what is nearest to each so far."""

    def __init__(
        self, rows: np.ndarray, ids: np.ndarray | None, partition: Partition | None, device: torch.device
    ) -> None:
        self.pixels = torch.from_numpy(rows).to(device).float()
        self.projected = self.pixels[:, :0]
        if partition:
            self.projected = torch.from_numpy(partition.project(rows)).to(device)
        self._ids = None if ids is None else torch.from_numpy(ids).to(device)
        self._other_class = _Nearest(len(rows), device)
        self._own_class = _Nearest(len(rows), device)

    def nearest(self, tile: Tile) -> "_Nearest":
        """What is nearest among the images of the tile's kind."""
        return self._own_class if tile.own_class else self._other_class

    def limit(self, tile: Tile) -> torch.Tensor:
        """int64 [Q]: an image of the tile that lies farther is no query's neighbour."""
        return torch.minimum(self.nearest(tile).distance, self._other_class.distance)

    def exclude_itself(self, matrix: torch.Tensor, ids: torch.Tensor, tile: Tile) -> None:
        """Set inf where a query of the database meets itself, in a matrix [Q, T] for the tile's images."""
        if tile.own_class and self._ids is not None:
            matrix[self._ids[:, None] == ids] = torch.inf

    def nearest_on_host(self) -> NearestByClass:
        return NearestByClass(self._other_class.on_host(), self._own_class.on_host())


class _Nearest:
    """``nearest.Nearest`` on a device: int64 [Q] distances and ids, FAR where none."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.distance = torch.full((count,), FAR, dtype=torch.int64, device=device)
        self.id = torch.full((count,), FAR, dtype=torch.int64, device=device)

    def improve_all(self, measured: torch.Tensor, ids: torch.Tensor) -> None:
        """With distances [Q, T], inf where none, to images of some ids."""
        smallest = measured.amin(dim=1)
        nearest_id = torch.where(measured == smallest[:, None], ids, FAR).amin(dim=1)
        exists = torch.isfinite(smallest)
        distance = torch.where(exists, smallest, 0).long()
        self._merge(distance.where(exists, FAR), nearest_id.where(exists, FAR))

    def improve_some(self, query: torch.Tensor, measured: torch.Tensor, ids: torch.Tensor) -> None:
        """With int64 distances [M] from some queries to images of some ids."""
        distance = torch.full_like(self.distance, FAR).scatter_reduce(0, query, measured, "amin")
        first = measured == distance[query]
        nearest_id = torch.full_like(self.id, FAR).scatter_reduce(0, query[first], ids[first], "amin")
        self._merge(distance, nearest_id)

    def _merge(self, distance: torch.Tensor, ids: torch.Tensor) -> None:
        tie = distance == self.distance
        better = (distance < self.distance) | (tie & (ids < self.id))
        self.distance = torch.where(better, distance, self.distance)
        self.id = torch.where(better, ids, self.id)

    def on_host(self) -> Nearest:
        return Nearest(self.distance.cpu().numpy(), self.id.cpu().numpy())


def _copied(flat: np.ndarray, order: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rows uint8 [N, d] in some order, copied to a device piece by piece."""
    rows = torch.empty(flat.shape, dtype=torch.uint8, device=device)
    for tile in tiles(slice(0, len(flat)), max(1, TILE_BYTES // flat.shape[1])):
        rows[tile] = torch.from_numpy(flat[order[tile]]).to(device)
    return rows


def _torch_distances(queries: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
    return torch.cdist(queries, tile, p=1)
