"""The one epoch loop. It knows neither Ray nor which defense is running.

A training is an ``Objective`` and its ``TrainingSettings``. With several workers the batch is shared out and
DDP averages the gradients; one worker needs no process group.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from harness import seeds
from harness.data.datasets import Images
from harness.errors import HarnessError
from harness.networks import heap
from harness.networks.classifier import Classifier, predict, to_tensor
from harness.networks.contract import check_workers
from harness.networks.counted import step_flops
from harness.networks.device import device, device_name, peak_flops
from harness.networks.objective import InTraining, Objective
from harness.networks.step import Steps, recorder_for
from harness.settings import Count, Settings


class TrainingSettings(Settings):
    """Settings of the one epoch loop. Adam, constant learning rate."""

    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.001
    batch_size: Count = Field(128, description="images a step over all workers together")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products in a step; all that is kept is float32"
    )
    workers: Count = Field(1, description="DDP workers of one training; 1 needs no process group")
    threads: Count = Field(1, description="CPU cores of each of these workers")

    # What a training costs, for estimates: they change nothing.

    @property
    def samples_per_image(self) -> int:
        """Images that the network takes in training steps, for each training image and epoch."""
        return 1

    @property
    def gradients_per_sample(self) -> float:
        """Gradients with respect to the image that an inner attack takes beside, for each of these."""
        return 0


class Training:
    """A training between epochs: network, optimiser and the rows measured so far.

    ``rank`` and ``world`` say which part of every batch is this worker's; with world > 1 a process
    group must exist. The global batches are the same for every world size. ``graphs``: on a GPU, record steps
    as CUDA graphs where that is known to change nothing (``step``).
    """

    def __init__(
        self,
        network: Classifier,
        objective: Objective,
        settings: TrainingSettings,
        seed: int,
        test: Images,
        rank: int = 0,
        world: int = 1,
        graphs: bool = False,
    ) -> None:
        if settings.epochs:
            check_workers(network.body, world)
        self.device = device()
        self.network = network.to(self.device).to(memory_format=torch.channels_last).requires_grad_(True)
        self.objective, self.settings, self.seed, self.test = objective, settings, seed, test
        self.rank, self.world = rank, world
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=settings.learning_rate,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        self.rows: list[dict[str, Any]] = []
        self._wrapped: nn.Module = self.network
        if world > 1:
            self._wrapped = nn.parallel.DistributedDataParallel(
                self.network,
                gradient_as_bucket_view=True,  # gradients live in the buffers that are sent: no copy
                # Those of batch normalisation are refused with several workers. What else a body may keep
                # (another's code) follows rank 0; mean and std are constants, nothing to send in each step.
                broadcast_buffers=any(True for _ in self.network.body.buffers()),
            )
        may_record = graphs and world == 1 and objective.is_steady
        recorder = recorder_for(self.network, self.device) if may_record else None
        self._steps = Steps(settings.batch_size, self.device, recorder)
        self._total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._in_training = InTraining(self.network, self._wrapped, self.device, settings.precision)
        self._peak = peak_flops(self.device, settings.precision)
        self._flops: float | None = None
        if self._peak:
            self._flops = step_flops(self.network, to_tensor(test.pixels[:1], self.device))

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
        began, epoch = time.perf_counter(), self.epoch + 1
        order = seeds.generator(self.seed, "order", epoch).permutation(self.objective.samples)
        batches = torch.from_numpy(order).to(self.device).split(self.settings.batch_size)
        self._wrapped.train()
        self._total.zero_()
        step = partial(self._step, epoch=epoch)
        with self._drawing("dropout", epoch), heap.kept(), self._steps.epoch(step, len(batches)) as run:
            for number, batch in enumerate(batches):
                self._in_training.batch = number
                run(batch)
        loss = float(self._sum(self._total)) / len(order)
        if not math.isfinite(loss):
            rate = self.settings.learning_rate
            raise HarnessError(
                f"the loss of epoch {epoch} is {loss}: training diverged (learning rate {rate})"
            )
        return self._row(loss, len(order), began)

    @contextmanager
    def _drawing(self, purpose: str, epoch: int) -> Iterator[None]:
        """Torch's generator, the only source of dropout, seeded for an epoch; restored afterwards."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.derive(self.seed, purpose, epoch, self.rank))
            yield

    def _step(self, batch: Tensor, epoch: int) -> None:
        """One optimiser step on this worker's share of a global batch, whose losses are added to the total.

        No value of it is looked at: on a GPU nothing here waits.
        """
        mine = batch[self.rank :: self.world]
        losses = self.objective.loss(self._in_training, mine if len(mine) else batch[:1], epoch)
        # A last batch smaller than the world leaves ranks without a share: they take part with weight 0.
        share = losses.sum() * (1.0 if len(mine) else 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP divides by the world size; the mean over the global batch divides by its length.
        (share * (self.world / len(batch))).backward()
        self.optimizer.step()
        self._total += share.detach().double()

    def _sum(self, value: Tensor) -> Tensor:
        if self.world > 1:
            torch.distributed.all_reduce(value)
        return value

    def _row(self, loss: float | None, samples: int, began: float) -> dict[str, Any]:
        trained = time.perf_counter() - began
        accuracy = self._clean_accuracy()
        share = None
        if samples and self._flops and self._peak:
            share = samples * self._flops / (trained * self.world * self._peak)
        row = {
            "epoch": self.epoch + 1,
            "loss": loss,
            "clean_accuracy": accuracy,
            "images_per_s": samples / trained if samples else None,
            "peak_share": share,
            "epoch_s": time.perf_counter() - began,
            "device": device_name(self.device),
            "world_size": self.world,
        }
        self.rows.append(row)
        return row

    def _clean_accuracy(self) -> float:
        """On the test images, which the workers share out."""
        mine = slice(self.rank, None, self.world)
        pixels, labels, right = self.test.pixels[mine], self.test.labels[mine], 0
        if len(labels):
            with self._drawing("test", self.epoch + 1):  # of a network that draws in eval mode, too
                right = (predict(self.network, pixels, 256, self.device) == labels).sum()
        correct = torch.tensor(float(right), device=self.device)
        return float(self._sum(correct)) / len(self.test.ids)

    # --- going on after an interruption: everything that an epoch depends on, as tensors and plain values ---

    def state(self) -> dict[str, np.ndarray]:
        """Copies of weights and Adam's moments; with ``rows``, all that an epoch depends on."""
        tensors = {f"network/{name}": value for name, value in self._values().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{name}": value for name, value in moments.items()}
        return {name: _copy(value).numpy() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> None:
        """Go on from ``state()`` and the rows so far, with the network that the training started from.

        The next epoch is the one that would have followed.
        """
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        parameters, values = list(self.network.parameters()), self._values()
        for name, array in tensors.items():
            part, _, name = name.partition("/")
            value = to_tensor(array, self.device)
            if part == "network":
                values[name].detach().copy_(value)
                continue
            index, moment = name.split("/")
            # The fused Adam takes moments in the layout of their weights.
            like = torch.empty(()) if moment == "step" else parameters[int(index)]
            laid_out = torch.empty_like(like, device=self.device).copy_(value.view_as(like)).detach()
            optimizer["state"].setdefault(int(index), {})[moment] = laid_out
        self.optimizer.load_state_dict(optimizer)
        self.rows = list(rows)

    def _values(self) -> dict[str, Tensor]:
        """What training changes in the network: a state dict may hold more than that."""
        return dict([*self.network.named_parameters(), *self.network.named_buffers()])


def _copy(value: Tensor) -> Tensor:
    """On the CPU, in the usual layout, which is not the training's: rows are what a reader expects."""
    return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
