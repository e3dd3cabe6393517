"""The exact nearest neighbours of ``nearest`` on a GPU: of all pairs, or of those that one lower bound leaves.

The distances come from FAISS's GPU kernel where there is one, else from torch. What a GPU finds first
among equals is not defined, so the smallest id is taken explicitly.
"""

from collections.abc import Callable

import numpy as np
import torch

from harness.datasets import Images
from harness.nearest import (
    ALL,
    EXACT_VALUES,
    FAR,
    Classes,
    Found,
    Nearest,
    Work,
    around,
    blocks_by_class,
    gpu_distances,
    rows_of,
    tiles,
)
from harness.partition import Index, Partition

QUERY_BLOCK = 512
TILE_BYTES = 1 << 28  # of float32 database rows
PAIR_BYTES = 1 << 28  # of float32 differences of listed pairs

_Distances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Database:
    """A database on a device, in order of class, with the first level of its index where it has one."""

    def __init__(self, images: Images, index: Index | None, device: torch.device) -> None:
        self._classes, self._device = Classes.of(images.labels), device
        order = self._classes.order
        self._rows = torch.empty((len(order), rows_of(images).shape[1]), dtype=torch.uint8, device=device)
        for tile in tiles(
            slice(0, len(order)), max(1, TILE_BYTES // self._rows.shape[1])
        ):  # a copy in order, piece by piece
            self._rows[tile] = torch.from_numpy(rows_of(images)[order[tile]]).to(device)
        self._ids = torch.from_numpy(images.ids[order]).to(device)
        level = index.levels[0] if index is not None and index.levels else None
        self._partition = level.partition if level else None
        self._projected = torch.from_numpy(np.array(level.rows)).to(device) if level else None
        self._distances: _Distances = (gpu_distances() if device.type == "cuda" else None) or _torch_distances

    def search(self, queries: Images, same: bool, part: slice = ALL) -> Found:
        """What ``nearest.search_tiled`` finds for queries uint8 [N, C, H, W] in the database's positions ``part``."""
        other, own = Nearest.none(len(queries.ids)), Nearest.none(len(queries.ids))
        work, slices = Work(), self._classes.slices(part)
        for label, at in blocks_by_class(queries.labels, QUERY_BLOCK):
            kinds = [_Best(len(at), self._device) for _ in range(2)]
            block = _Queries(
                rows_of(queries)[at], queries.ids[at] if same else None, self._partition, self._device
            )
            foreign, kin = around(slices, label)
            for rows in [*foreign, kin]:
                for tile in tiles(rows, max(1, TILE_BYTES // (4 * self._rows.shape[1]))):
                    work += self._look(block, tile, kinds[int(rows is kin)], kinds[0], rows is kin)
            other.improve(at, kinds[0].on_host())
            own.improve(at, kinds[1].on_host())
        return Found(other, other.merge(own), work)

    def _look(self, block: "_Queries", tile: slice, best: "_Best", limit: "_Best", kin: bool) -> Work:
        """Compare queries with a tile of images of the own class, or of another."""
        itself = block.ids[:, None] == self._ids[tile][None, :] if kin and block.ids is not None else None
        if self._projected is None:
            measured = self._all_distances(block.pixels, self._rows[tile].float())
            if itself is not None:
                measured[itself] = torch.inf
            best.improve_all(measured, self._ids[tile])
            return Work(measured.numel(), (), measured.numel())
        bounds = self._distances(block.projected, self._projected[tile].float())
        if itself is not None:
            bounds[itself] = torch.inf
        lowest = bounds.argmin(dim=1)
        everyone = torch.arange(len(lowest), device=self._device)
        known = torch.isfinite(bounds[everyone, lowest])
        exact = self._measure(block, tile, everyone[known], lowest[known], best)
        # A float32 sum may exceed the true bound by its rounding: the limit is raised by as much.
        nearest = torch.minimum(best.distance, limit.distance).double() * (
            1 + (block.projected.shape[1] + 4) * 2.0**-24
        )
        query, row = (bounds <= nearest.float()[:, None]).nonzero(as_tuple=True)
        exact += self._measure(block, tile, query, row, best)
        return Work(bounds.numel(), (len(query),), exact)

    def _measure(
        self, block: "_Queries", tile: slice, query: torch.Tensor, row: torch.Tensor, best: "_Best"
    ) -> int:
        """Measure some pairs, piece by piece; how many."""
        exact = torch.float32 if self._rows.shape[1] <= EXACT_VALUES else torch.float64
        for some in tiles(slice(0, len(query)), max(1, PAIR_BYTES // (4 * self._rows.shape[1]))):
            at = row[some] + tile.start
            measured = (block.pixels[query[some]] - self._rows[at]).abs().sum(dim=1, dtype=exact)
            best.improve_some(query[some], measured.long(), self._ids[at])
        return len(query)

    def _all_distances(self, queries: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
        if queries.shape[1] <= EXACT_VALUES:
            return self._distances(queries, tile)
        total = torch.zeros((len(queries), len(tile)), dtype=torch.float64, device=self._device)
        for piece in tiles(slice(0, queries.shape[1]), EXACT_VALUES):
            total += self._distances(queries[:, piece].contiguous(), tile[:, piece].contiguous())
        return total


class _Queries:
    """Queries of one class on a device."""

    def __init__(
        self, rows: np.ndarray, own_ids: np.ndarray | None, partition: Partition | None, device: torch.device
    ) -> None:
        self.pixels = torch.from_numpy(rows).to(device).float()
        self.ids = None if own_ids is None else torch.from_numpy(own_ids).to(device)
        self.projected = (
            torch.from_numpy(partition.project(rows)).to(device) if partition else self.pixels[:, :0]
        )


class _Best:
    """Nearest so far of each query on a device; FAR where none."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.distance, self.id = (
            torch.full((count,), FAR, dtype=torch.int64, device=device) for _ in range(2)
        )

    def improve_all(self, measured: torch.Tensor, ids: torch.Tensor) -> None:
        """With distances [Q, T], inf where none, to images of some ids."""
        smallest = measured.amin(dim=1)
        id = torch.where(measured == smallest[:, None], ids, FAR).amin(dim=1)
        known = torch.isfinite(smallest)
        self._merge(torch.where(known, smallest, 0).long().where(known, FAR), id.where(known, FAR))

    def improve_some(self, query: torch.Tensor, measured: torch.Tensor, ids: torch.Tensor) -> None:
        """With int64 distances [M] from some queries to images of some ids."""
        distance = torch.full_like(self.distance, FAR).scatter_reduce(0, query, measured, "amin")
        first = measured == distance[query]
        self._merge(
            distance, torch.full_like(self.id, FAR).scatter_reduce(0, query[first], ids[first], "amin")
        )

    def _merge(self, distance: torch.Tensor, id: torch.Tensor) -> None:
        better = (distance < self.distance) | ((distance == self.distance) & (id < self.id))
        self.distance, self.id = (
            torch.where(better, distance, self.distance),
            torch.where(better, id, self.id),
        )

    def on_host(self) -> Nearest:
        return Nearest(self.distance.cpu().numpy(), self.id.cpu().numpy())


def _torch_distances(queries: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
    return torch.cdist(queries, tile, p=1)
