"""One worker of a training, and what all trainings of a sweep share."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from harness.cluster import nodes
from harness.data.datasets import Images
from harness.defenses.defense import Defense
from harness.errors import HarnessError
from harness.networks.build import blank, build
from harness.networks.classifier import Classifier, from_tensors, to_tensor, to_tensors
from harness.networks.device import cuda_versions, device
from harness.networks.objective import Inputs, Objective, supervised
from harness.networks.training import Training
from harness.results import checkpoints
from harness.results.cells import Cell, hardware
from harness.results.store import Store
from harness.seeds import derive
from harness.study.compute import ComputeSpec
from harness.study.trainings import Network

GANG_TIMEOUT_S = 120  # a rank that dies while the others wait for it must not hang the trial for ever


@dataclass(frozen=True)
class Material:
    """What the trainings of a sweep share: read-only arrays, put into the object store once.

    ``bases``: weights of base networks by seed, for the trainings that start from them; ``distance`` float32
    [N], of the bound; ``base_outputs``: log-probabilities of base networks float32 [N, classes] by seed;
    ``initial``: by the key of a training's cell, the tensors of the file that it starts with: the file need
    not be on every machine. ``compute``: how the study is run, which changes no value.
    """

    classes: int
    train: Images
    test: Images
    bases: Mapping[int, dict[str, np.ndarray]] = field(default_factory=dict)
    distance: np.ndarray | None = None
    base_outputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    initial: Mapping[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    compute: ComputeSpec = ComputeSpec()


class Rank:
    """One worker of a training; the only one, in the trial's own process, where the world is 1."""

    def __init__(
        self, store: Store, material: Material, rank: int = 0, world: int = 1, threads: int = 1
    ) -> None:
        torch.set_num_threads(threads)
        self._store, self._material, self._rank, self._world = store, material, rank, world

    def address(self) -> str:
        """Where the other ranks find rank 0."""
        import ray.util

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def join(self, address: str, interface: str | None) -> None:
        """Form the process group: NCCL on GPUs, gloo on CPUs.

        It goes over the named network interface, or that of Ray's address.
        """
        import ray.util

        if interface and interface not in nodes.interfaces():
            raise HarnessError(
                f"compute.interface: there is no '{interface}', only {', '.join(nodes.interfaces())}"
            )
        # Left alone, gloo takes the one of the host's name, which on Debian is loopback. NCCL takes a name as
        # a prefix but for '='.
        if name := interface or nodes.interface_of(ray.util.get_node_ip_address()):
            for variable, value in (("GLOO_SOCKET_IFNAME", name), ("NCCL_SOCKET_IFNAME", f"={name}")):
                os.environ[variable] = value if interface else os.environ.get(variable, value)
        backend = "nccl" if device().type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend,
            init_method=address,
            rank=self._rank,
            world_size=self._world,
            timeout=timedelta(seconds=GANG_TIMEOUT_S),
        )

    def open(self, network: Network) -> None:
        """Start a training, or go on where its checkpoint says."""
        material, on = self._material, device()
        seed = derive(network.seed, "training", *network.draws)
        model = self._first(network, seed) if network.base is None else self._blank(network)
        if network.base is not None:
            from_tensors(model, material.bases[network.seed], on)
        objective = self._objective(network, seed, on)
        self._network = network
        self._keeper = checkpoints.Keeper(self._store.folder, network.cell, material.compute.checkpoint_s)
        self._training = Training(
            model,
            objective,
            network.settings,
            seed,
            material.test,
            self._rank,
            self._world,
            material.compute.cuda_graphs,
        )
        if checkpoint := checkpoints.load(self._store.folder, network.cell):
            tensors, state = checkpoint
            self._training.restore(tensors, state["rows"])
        else:
            self._training.start()
        self._agree()
        self._finish()

    def _first(self, network: Network, seed: int) -> Classifier:
        """A base network before its training."""
        material = self._material
        tensors = material.initial.get(network.cell.key)
        return build(network.architecture, material.train.pixels, material.classes, seed, True, tensors)

    def _blank(self, network: Network) -> Classifier:
        return blank(network.architecture, self._material.train.pixels, self._material.classes)

    def _objective(self, network: Network, seed: int, on: torch.device) -> Objective:
        inputs = self._inputs(network, on)
        if isinstance(network.settings, Defense):
            return network.settings.objective(inputs, seed)
        return supervised(inputs)

    def _agree(self) -> None:
        """Raise RuntimeError, for Tune to try again, where a shared folder showed ranks other checkpoints."""
        if self._world > 1:
            epochs: list[Any] = [None] * self._world
            torch.distributed.all_gather_object(epochs, self._training.epoch)
            if len(set(epochs)) > 1:
                raise RuntimeError(f"the ranks found checkpoints of different epochs: {epochs}")

    def _inputs(self, network: Network, on: torch.device) -> Inputs:
        """What the training's objective needs, on the device."""
        train, material, needs = self._material.train, self._material, network.needs

        def given(value: np.ndarray | None) -> torch.Tensor | None:
            return None if value is None else to_tensor(value, on)

        images = None if network.images is None else self._store.tensors(network.images)["adversarial"]
        return Inputs(
            to_tensor(train.pixels, on),
            to_tensor(train.labels, on),
            to_tensor(train.ids, on),
            distance=given(material.distance) if needs.bound else None,
            base_outputs=given(material.base_outputs[network.seed]) if needs.base_outputs else None,
            adversarial=given(images),
            other_bases=tuple(self._fixed(network, cell, on) for cell in network.other_bases),
        )

    def _fixed(self, network: Network, cell: Cell, on: torch.device) -> Classifier:
        """Another network of the same architecture, which is used and not trained."""
        return from_tensors(self._blank(network), self._store.tensors(cell), on)

    def epoch(self) -> dict[str, Any]:
        """One epoch more, if one is left; the last row, and whether the training is done."""
        if not self.done():
            self._training.run_epoch()
            self._finish()
        return {**self._training.rows[-1], "done": self.done()}

    def done(self) -> bool:
        return self._training.epoch >= self._network.settings.epochs

    def _finish(self) -> None:
        """Keep the epoch if it is time; after the last one write the cell. Rank 0 does so for all."""
        if self._rank:
            return
        cell, rows = self._network.cell, self._training.rows
        if not self.done():
            self._keeper.keep(lambda: (self._training.state(), {"rows": list(rows)}))
            return
        self._keeper.end()
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        facts = {**hardware(), **cuda_versions()}
        self._store.write(cell, columns, to_tensors(self._training.network), **facts)
        checkpoints.drop(self._store.folder, cell)
