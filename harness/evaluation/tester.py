"""A worker that attacks and tests networks, a task at a time: placed as an actor, or used in this process.

Its state follows from its arguments alone, so a lost one is simply built again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from harness.attacks.attack import Attack, Protocol
from harness.data.datasets import Dataset
from harness.errors import Failed, attempt
from harness.evaluation.blocks import (
    BATCHES_PER_BLOCK,
    SO_FAR,
    Attacked,
    attack_block,
    attack_survivors,
    blocks,
)
from harness.evaluation.certified import Smoothing
from harness.evaluation.randomised import TRIED, draws_column, fresh, judged
from harness.evaluation.smoothing import certify_block
from harness.networks import Architecture
from harness.networks.build import blank
from harness.networks.classifier import as_input, from_tensors, logits, predict, to_tensor
from harness.networks.device import device
from harness.results.cells import Cell
from harness.results.store import Store

OUTPUTS_BLOCK = 256  # images; not the study's batch size, on which a training must not depend


@dataclass(frozen=True)
class StoredNetwork:
    """A trained network: what it is built of, and the cell with its weights."""

    architecture: Architecture
    cell: Cell


@dataclass(frozen=True)
class OutputsTask:
    """The outputs of a network on a block of the training images."""

    network: StoredNetwork
    block: slice


@dataclass(frozen=True)
class AttackTask:
    """An attack on a network for a block of a split's images; ``name`` is shown.

    ``is_member`` of a worst case: see ``blocks.attack_survivors``; ``after``: for each epsilon the cell of
    the member before it, if there is one.
    """

    name: str
    network: StoredNetwork
    settings: Attack
    split: str
    block: slice
    protocol: Protocol
    seed: int
    batch_size: int
    limit_s: float | None = None
    is_member: bool = False
    after: tuple[Cell, ...] = ()
    tells_fragility: bool = False


@dataclass(frozen=True)
class PredictionTask:
    """A network on several sets of images: the adversarial ones of a cell each, or (None) the clean ones.

    ``splits``: of which split each set is.
    """

    network: StoredNetwork
    images: tuple[Cell | None, ...]
    splits: tuple[str, ...]
    batch_size: int


@dataclass(frozen=True)
class CertificationTask:
    """The smoothed network's radii at test images in these positions, some of which are attacked as well."""

    network: StoredNetwork
    positions: tuple[int, ...]
    is_attacked: tuple[bool, ...]
    smoothing: Smoothing
    seed: int
    batch_size: int


class Tester:
    """The state of a worker: the images, and the network it used last."""

    def __init__(self, store: Store, dataset: Dataset) -> None:
        # One core a worker, also where the work runs in this process: another number of threads sums in
        # another order, and the last bits decide on which side DeepFool's images lie.
        torch.set_num_threads(1)
        self._store, self._dataset = store, dataset
        self._loaded: tuple[Cell, nn.Module] | None = None

    def _network(self, stored: StoredNetwork) -> nn.Module:
        """The trained network, or the mean of its draws where it draws."""
        if self._loaded is None or self._loaded[0] != stored.cell:
            pixels, classes = self._dataset.train.pixels, len(self._dataset.classes)
            built = blank(stored.architecture, pixels, classes)
            network = from_tensors(built, self._store.tensors(stored.cell), device())
            tried = as_input(to_tensor(self._dataset.test.pixels[:TRIED], device()))
            is_from_outside = bool(stored.architecture.package)
            before = _state(network, is_from_outside)
            found = judged(network, tried)
            if _state(network, is_from_outside) != before:
                raise _changed(stored)
            self._loaded = (stored.cell, found)
        return self._loaded[1]

    @contextmanager
    def _using(self, stored: StoredNetwork, attack: Attack | None = None) -> Iterator[nn.Module]:
        """The network for one task; RuntimeError where its weights are no longer what they were."""
        network = self._network(stored)
        is_from_outside = bool(stored.architecture.package or (attack and attack.package))
        before = _state(network, is_from_outside)
        try:
            yield network
        except BaseException:
            self._loaded = None  # in whatever state it was left
            raise
        if _state(network, is_from_outside) != before:
            self._loaded = None
            raise _changed(stored)

    def log_probabilities(self, task: OutputsTask) -> np.ndarray:
        """float32 [B, classes] on a block of clean training images."""
        pixels, ids = self._dataset.train.pixels[task.block], self._dataset.train.ids[task.block]
        with self._using(task.network) as network, fresh(network, to_tensor(ids, device())):
            (output,) = logits(network, pixels, OUTPUTS_BLOCK, device())
        result: np.ndarray = log_softmax(output, dim=1).numpy()
        return result

    def attack(self, task: AttackTask) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Rows and images for each epsilon: see ``attack_block``."""
        images = self._dataset.of(task.split).take(task.block)
        how = (task.seed, task.batch_size, task.limit_s, task.tells_fragility)
        with self._using(task.network, task.settings) as network:
            if not task.is_member:
                return attack_block(network, images, task.settings, task.protocol, *how)
            before = [self._before(cell, task.block) for cell in task.after] or None
            return attack_survivors(network, images, task.settings, before, *how)

    def _before(self, cell: Cell, block: slice) -> Attacked:
        """What a cell holds of a block of images: rows by column, and what it made if that was kept."""
        table = self._store.read(cell).slice(block.start, block.stop - block.start)
        rows = {name: table[name].to_numpy() for name in SO_FAR if name in table.column_names}
        if "prediction" in table.column_names:
            rows["adversarial_predicted"] = table["prediction"].to_numpy()
        is_kept = self._store.metadata(cell.path)["artifact"] is not None
        return rows, self._store.tensors(cell)["adversarial"][block] if is_kept else None

    def predict(self, task: PredictionTask) -> list[dict[str, np.ndarray] | Failed]:
        """Columns of each set of images: ``prediction`` int64 [N], ``draws`` where the network draws.

        A set that can't be read fails alone.
        """
        with self._using(task.network) as network:

            def predicted(images: Cell | None, split: str) -> dict[str, np.ndarray]:
                pixels = (
                    self._dataset.of(split).pixels
                    if images is None
                    else self._store.tensors(images)["adversarial"]
                )
                found = _predictions(network, pixels, self._dataset.of(split).ids, task.batch_size)
                return {"prediction": found, **draws_column(network, len(found))}

            return [attempt(predicted, *each) for each in zip(task.images, task.splits, strict=True)]

    def certify(self, task: CertificationTask) -> list[dict[str, Any]]:
        """A row for each image: see ``certify_block``."""
        images = self._dataset.test.take(np.array(task.positions))
        with self._using(task.network) as network:
            return certify_block(
                network, images, task.is_attacked, task.smoothing, task.seed, task.batch_size
            )


def _predictions(network: nn.Module, pixels: np.ndarray, ids: np.ndarray, batch_size: int) -> np.ndarray:
    """Classes int64 [N], in the blocks in which images are attacked: a network's draws are a block's own."""
    found = []
    for block in blocks(len(pixels), BATCHES_PER_BLOCK * batch_size):
        with fresh(network, to_tensor(ids[block], device())):
            found.append(predict(network, pixels[block], batch_size, device()))
    return np.concatenate(found)


def _changed(stored: StoredNetwork) -> RuntimeError:
    return RuntimeError(f"the weights of '{stored.cell.title}' changed while it was used")


def _state(network: nn.Module, is_read: bool) -> list[tuple[int, ...]]:
    """Which tensors hold the weights and how often each was changed, which costs nothing.

    Changes through ``.data`` are not counted: where code from outside is at work its values are read as well.
    """
    tensors = (*network.parameters(), *network.buffers())
    return [(id(value), value._version, *([_sum(value)] if is_read else ())) for value in tensors]


def _sum(value: Tensor) -> int:
    """Of the bits of floats, so that no change is too small and NaN is a number, or of integers."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(value.element_size())
    bits = value.detach()
    if bits.is_floating_point() and whole is not None:
        bits = bits.view(whole)
    return int(bits.sum(dtype=torch.int64))
