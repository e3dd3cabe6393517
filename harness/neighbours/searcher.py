"""What a worker of the bound holds and does, a shard at a time: placed as an actor, or used in this process.

Its state follows from its arguments alone, so a lost one is simply built again. torch is imported for a
GPU alone: the workers stay small.
"""

from typing import Any

from harness.data.datasets import Dataset
from harness.neighbours.nearest import Neighbours
from harness.neighbours.partition import Index
from harness.neighbours.shards import Shard, search_shard


class Searcher:
    """The images and the training images' index, mapped from the object store, or copied to its GPU."""

    def __init__(self, dataset: Dataset, index: Index | None, gpu: bool) -> None:
        self._dataset, self._index = dataset, index
        self._on_gpu: Any = None
        if gpu:
            from harness.neighbours import nearest_gpu
            from harness.networks.device import device

            self._on_gpu = nearest_gpu.Database(dataset.train, index, device())

    def search(self, task: tuple[str, Shard]) -> Neighbours:
        """The neighbours of a shard of a split ('train' or 'test') among the training images."""
        split, shard = task
        queries, same = getattr(self._dataset, split), split == "train"
        if self._on_gpu is not None:
            neighbours: Neighbours = self._on_gpu.search(queries.take(shard.queries), same, shard.database)
            return neighbours
        return search_shard(queries, self._dataset.train, same, self._index, shard)
