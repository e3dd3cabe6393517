"""The one epoch loop. It knows neither Ray nor which defense is running.

A training is an ``Objective`` (what the samples of an epoch are, and what each one costs) and the
settings of a ``TrainingSpec``. With several workers the batch is shared out and DDP averages the
gradients; one worker needs no process group.
"""

import math
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import networks, seeds
from harness.datasets import Images
from harness.errors import HarnessError
from harness.spec import TrainingSpec


@dataclass(frozen=True)
class Inputs:
    """What objectives are made from, on the training's device; images in the order of the split.

    pixels uint8 [N, C, H, W]; labels, ids int64 [N]; distance float32 [N] (d_i of the bound);
    teacher float32 [N, classes], log-probabilities of f1 on the clean images; adversarial float32
    [N, C, H, W]. None where the objective does not use them.
    """

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    distance: Tensor | None = None
    teacher: Tensor | None = None
    adversarial: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The samples of one epoch and the loss of each.

    ``batch(indices, epoch)`` -> (float32 images in the network's input space, targets) for int64
    sample indices below ``samples``; ``loss(logits, targets)`` -> float32 [B].
    """

    samples: int
    batch: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-sample cross entropy [B]."""
    return F.cross_entropy(logits, labels, reduction="none")


def supervised(inputs: Inputs, settings: dict[str, Any]) -> Objective:
    """Clean images and their labels: the base network f1 (paper IV)."""

    def batch(indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        return networks.as_input(inputs.pixels[indices]), inputs.labels[indices]

    return Objective(len(inputs.pixels), batch, cross_entropy)


class Training:
    """A training between epochs: network, optimiser and the rows measured so far.

    ``rank`` and ``world`` say which part of every batch is this worker's; with world > 1 a process
    group must exist. The global batches are the same for every world size.
    """

    def __init__(
        self,
        network: networks.Classifier,
        objective: Objective,
        spec: TrainingSpec,
        seed: int,
        test: Images,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.device = networks.device()
        self.network = network.to(self.device).to(memory_format=torch.channels_last).requires_grad_(True)
        self.objective, self.spec, self.seed, self.test = objective, spec, seed, test
        self.rank, self.world = rank, world
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=spec.learning_rate, fused=True)
        self.rows: list[dict[str, Any]] = []
        # Gradients live in the buffers that are sent: no copy.
        ddp = nn.parallel.DistributedDataParallel
        self._wrapped: nn.Module = (
            ddp(self.network, gradient_as_bucket_view=True) if world > 1 else self.network
        )
        self._peak = peak_flops(self.device, spec.precision)
        self._flops = (
            step_flops(self.network, networks.to_tensor(test.pixels[:1], self.device)) if self._peak else None
        )

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.rows) - 1

    def start(self) -> dict[str, Any]:
        """Row of epoch 0: the network as it comes."""
        return self._row(None, 0, time.perf_counter())

    def run_epoch(self) -> dict[str, Any]:
        """One pass over the objective's samples and the clean test; the row of table ``training``.

        Raises HarnessError where the loss is no longer finite.
        """
        began, epoch, size = time.perf_counter(), self.epoch + 1, self.spec.batch_size
        order = torch.from_numpy(
            seeds.generator(self.seed, "order", epoch).permutation(self.objective.samples)
        ).to(self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._wrapped.train()
        # Dropout has no other source than the global generator: seeded for the epoch, restored after.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.derive(self.seed, "dropout", epoch, self.rank))
            for begin in range(0, len(order), size):
                total += self._step(order[begin : begin + size], epoch)
        loss = float(self._sum(total)) / len(order)
        if not math.isfinite(loss):
            raise HarnessError(
                f"the loss of epoch {epoch} is {loss}: training diverged (learning rate {self.spec.learning_rate})"
            )
        return self._row(loss, len(order), began)

    def _step(self, batch: Tensor, epoch: int) -> Tensor:
        """One optimiser step on this worker's share of a global batch; the sum of the share's losses."""
        mine = batch[self.rank :: self.world]
        inputs, targets = self.objective.batch(mine if len(mine) else batch[:1], epoch)
        # bfloat16 is for the products alone: weights, gradients, Adam's moments and the loss stay float32.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            logits = self._wrapped(inputs.contiguous(memory_format=torch.channels_last))
        losses = self.objective.loss(logits.float(), targets)
        # A last batch smaller than the world leaves ranks without a share: they take part with weight 0.
        share = losses.sum() * (1.0 if len(mine) else 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP divides by the world size; the mean over the global batch divides by its length.
        (share * (self.world / len(batch))).backward()
        self.optimizer.step()
        return share.detach().double()

    def _sum(self, value: Tensor) -> Tensor:
        if self.world > 1:
            torch.distributed.all_reduce(value)
        return value

    def _row(self, loss: float | None, samples: int, began: float) -> dict[str, Any]:
        trained = time.perf_counter() - began
        mine = slice(self.rank, None, self.world)
        predicted = (
            networks.predict(self.network, self.test.pixels[mine], 256, self.device)
            if len(self.test.ids[mine])
            else np.empty(0)
        )
        correct = torch.tensor(float((predicted == self.test.labels[mine]).sum()), device=self.device)
        row = {
            "epoch": self.epoch + 1,
            "loss": loss,
            "clean_accuracy": float(self._sum(correct)) / len(self.test.ids),
            "images_per_s": samples / trained if samples else None,
            "peak_share": samples * self._flops / (trained * self.world * self._peak)
            if samples and self._flops and self._peak
            else None,
            "epoch_s": time.perf_counter() - began,
            "device": device_name(self.device),
            "world_size": self.world,
        }
        self.rows.append(row)
        return row

    # --- going on after an interruption: everything that an epoch depends on, as tensors and plain values ---

    def state(self) -> dict[str, np.ndarray]:
        """Weights and Adam's moments; with ``rows``, all that an epoch depends on."""
        tensors = {f"network/{name}": value for name, value in self._values().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{name}": value for name, value in moments.items()}
        return {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> None:
        """Go on from ``state()`` and the rows so far, with the network that the training started from.

        The next epoch is the one that would have followed.
        """
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        parameters, values = list(self.network.parameters()), self._values()
        for name, array in tensors.items():
            part, _, name = name.partition("/")
            value = networks.to_tensor(array, self.device)
            if part == "network":
                values[name].detach().copy_(value)
                continue
            index, moment = name.split("/")
            # The fused Adam takes moments in the layout of their weights.
            laid = (
                value.reshape(())
                if moment == "step"
                else torch.empty_like(parameters[int(index)]).copy_(value).detach()
            )
            optimizer["state"].setdefault(int(index), {})[moment] = laid
        self.optimizer.load_state_dict(optimizer)
        self.rows = list(rows)

    def _values(self) -> dict[str, Tensor]:
        """What training changes in the network: a state dict may hold more than that."""
        return dict([*self.network.named_parameters(), *self.network.named_buffers()])


def device_name(device: torch.device) -> str:
    """'cuda NVIDIA H100' or 'cpu x86_64'."""
    return (
        f"{device.type} {torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()}"
    )


# Dense peak in 10^12 floating-point operations per second, from NVIDIA's data sheets: device -> precision.
_PEAK_TERAFLOPS = {
    "H100 PCIe": {"float32": 51.2, "bfloat16": 756.0},
    "H100 NVL": {"float32": 60.0, "bfloat16": 835.0},
    "H100": {"float32": 66.9, "bfloat16": 989.4},
    "H200": {"float32": 66.9, "bfloat16": 989.4},
    "A100": {"float32": 19.5, "bfloat16": 312.0},
    "L40S": {"float32": 91.6, "bfloat16": 362.0},
    "L4": {"float32": 30.3, "bfloat16": 121.0},
    "T4": {"float32": 8.1},
    "V100": {"float32": 15.7},
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Dense peak of the device at this precision in FLOP/s; None for CPUs, parts of a GPU and GPUs that are not listed."""
    name = device_name(device)
    known = [
        peaks
        for gpu, peaks in _PEAK_TERAFLOPS.items()
        if re.search(rf"\b{gpu}\b", name) and "MIG" not in name
    ]
    teraflops = known[0].get(precision) if device.type == "cuda" and known else None
    return teraflops and teraflops * 1e12


def step_flops(network: nn.Module, images: Tensor) -> float:
    """Floating-point operations an image of one training step, forward and backward, counted (not timed) on ``images``."""
    from torch.utils.flop_counter import FlopCounterMode

    with (
        torch.random.fork_rng(devices=[images.device] if images.is_cuda else []),
        FlopCounterMode(display=False) as counter,
    ):
        torch.autograd.grad(
            network(networks.as_input(images)).sum(), [p for p in network.parameters() if p.requires_grad]
        )
    return counter.get_total_flops() / len(images)
