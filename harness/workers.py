"""What the workers of a study hold and do, one task at a time: placed as actors by ``cluster``, or used in this process.

A worker's state follows from its arguments alone, so a lost one is simply built again. torch is
imported by those that need it: the bound's workers stay small.
"""

from typing import Any

import numpy as np

from harness.bound import Shard, search_shard
from harness.cells import Cell
from harness.datasets import Dataset
from harness.errors import Failed, attempt
from harness.nearest import Found
from harness.partition import Index
from harness.plan import Attack, Evaluation, Network
from harness.spec import Study
from harness.store import Store

TEACHER_BLOCK = 256  # images; not the study's batch size, on which a training must not depend


class Searcher:
    """A bound worker's state: the images and the index of the training images, mapped from the object store, or on its GPU."""

    def __init__(self, dataset: Dataset, index: Index | None, gpu: bool) -> None:
        self._dataset, self._index = dataset, index
        self._on_gpu: Any = None
        if gpu:
            from harness import nearest_gpu, networks

            self._on_gpu = nearest_gpu.Database(dataset.train, index, networks.device())

    def search(self, task: tuple[str, Shard]) -> Found:
        """The neighbours of a shard of a split among the training images."""
        split, shard = task
        queries, same = getattr(self._dataset, split), split == "train"
        if self._on_gpu is not None:
            found: Found = self._on_gpu.search(queries.take(shard.queries), same, shard.database)
            return found
        return search_shard(queries, self._dataset.train, same, self._index, shard)


class Tester:
    """The state of a worker that attacks or tests: the study, the images, and the network it used last."""

    def __init__(self, study: Study, store: Store, dataset: Dataset) -> None:
        import torch

        # One core a worker, also where the work runs in this process: another number of threads sums in another
        # order, and the last bits decide on which side DeepFool's images lie.
        torch.set_num_threads(1)
        self._study, self._store, self._dataset = study, store, dataset
        self._loaded: tuple[str, Any] = ("", None)

    def _network(self, network: Network) -> Any:
        from harness import networks

        if self._loaded[0] != network.cell.key:
            dataset = self._dataset
            model = networks.build(
                self._study.network, dataset.train.pixels, len(dataset.classes), 0, initial=False
            )
            self._loaded = (
                network.cell.key,
                networks.from_tensors(model, self._store.tensors(network.cell), networks.device()),
            )
        return self._loaded[1]

    def log_probabilities(self, task: tuple[Network, slice]) -> np.ndarray:
        from torch.nn.functional import log_softmax

        from harness import networks

        network, block = task
        (found,) = networks.logits(
            self._network(network), self._dataset.train.pixels[block], TEACHER_BLOCK, networks.device()
        )
        result: np.ndarray = log_softmax(found, dim=1).numpy()
        return result

    def attack(self, task: tuple[Network, Attack, slice]) -> Any:
        from harness.evaluation import attack_block
        from harness.seeds import derive

        network, attack, block = task
        images = getattr(self._dataset, attack.split).take(block)
        seed = derive(self._study.seed, "attack", attack.name)
        return attack_block(
            self._network(network),
            images,
            attack.settings,
            self._study.protocol,
            seed,
            self._study.batch_size,
        )

    def evaluate(self, task: list[Evaluation]) -> list[np.ndarray | Failed]:
        """One network's predictions int64 [N] on each set of images; a set that can't be read fails alone."""
        from harness import networks

        model, on, size = self._network(task[0].network), networks.device(), self._study.batch_size

        def predicted(images: Cell | None) -> np.ndarray:
            pixels = (
                self._dataset.test.pixels if images is None else self._store.tensors(images)["adversarial"]
            )
            return networks.predict(model, pixels, size, on)

        return [attempt(predicted, evaluation.images) for evaluation in task]

    def white_box(self, task: tuple[Evaluation, slice]) -> np.ndarray:
        from harness.evaluation import white_box_block
        from harness.seeds import derive

        evaluation, block = task
        assert evaluation.settings is not None
        images = self._dataset.test.take(block)
        seed = derive(self._study.seed, "white_box")
        return white_box_block(
            self._network(evaluation.network),
            images,
            evaluation.settings,
            self._study.protocol,
            seed,
            self._study.batch_size,
        )
