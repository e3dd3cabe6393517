"""A study over Ray on this machine's GPUs, and a gang of one: the process group that larger ones form."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import images, run_study, snapshot, tiny_study
from torch import nn

from harness.cluster.connection import connect
from harness.cluster.rank import Material, Rank
from harness.networks import ConvNet
from harness.networks.build import build
from harness.networks.classifier import as_input, to_tensor
from harness.networks.device import device
from harness.results.store import Store
from harness.study.compute import ComputeSpec


def same_study(folder: Path, workers: int = 1) -> int:
    """A tiny study over workers measures what it does in this process alone; how many cells it has."""
    here, there = folder / "here", folder / "ray"
    run_study(tiny_study(), here)
    run_study({**tiny_study(), "compute": {"workers": workers}}, there)
    mine, theirs = snapshot(here), snapshot(there)
    assert mine == theirs, "over Ray the study measures something else"
    return len(mine)


def gang_of_one(folder: Path) -> str:
    """DDP over a process group of one rank, in an actor: its gradients are the network's. The backend."""
    import ray

    with connect(ComputeSpec(workers=1)) as cluster:
        actor = ray.remote(Lone).options(num_cpus=1, num_gpus=cluster.gpu_share).remote(str(folder))
        backend, difference = ray.get(actor.step.remote(), timeout=300)
        ray.kill(actor)
    assert difference < 1e-5, f"gradients over {backend} differ by {difference:.1e}"
    return str(backend)


class Lone(Rank):
    """A rank that is a gang of its own."""

    def __init__(self, folder: str) -> None:
        data = images(0, 16, 3, (3, 8, 8))
        super().__init__(Store(Path(folder)), Material(3, data, data))
        self._data = data

    def step(self) -> tuple[str, float]:
        """The backend, and the largest difference between gradients with and without it."""
        self.join(self.address(), None)
        on = device()
        network = build(ConvNet(width=4), self._data.pixels, 3, 0).to(on)
        x = as_input(to_tensor(self._data.pixels, on))
        wrapped: Any = nn.parallel.DistributedDataParallel(network)
        found = []
        for each in (network, wrapped):
            network.zero_grad()
            each(x).square().sum().backward()
            found.append([p.grad.cpu().numpy().copy() for p in network.parameters()])
        pairs = zip(*found, strict=True)
        difference = max(float(np.abs(a - b).max() / max(1.0, np.abs(a).max())) for a, b in pairs)
        backend = torch.distributed.get_backend()
        torch.distributed.destroy_process_group()
        return backend, difference
