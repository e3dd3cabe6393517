"""What an attack asks of a network, recorded and asked again alone: no attack that asks as much is faster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.attacks.batch import frozen


@dataclass
class Pass:
    """One call of a network: its images, and how often gradients to them were asked for."""

    images: int
    gradients: int = 0


def recorded(network: nn.Module, work: Callable[[], object]) -> list[Pass]:
    """The calls that ``work`` makes of the network, in order."""
    made: list[Pass] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        made.append(Pass(len(arguments[0])))
        if logits.requires_grad:
            logits.register_hook(partial(_count, made[-1]))

    handle = network.register_forward_hook(note)
    try:
        work()
    finally:
        handle.remove()
    return made


def _count(call: Pass, _: Tensor) -> None:
    call.gradients += 1


def replay(network: nn.Module, x: Tensor, calls: Sequence[Pass]) -> None:
    """The same calls with images of ``x`` float32 [N, C, H, W], N at least that of the largest."""
    with frozen(network):
        for call in calls:
            batch = x[: call.images].clone().requires_grad_(call.gradients > 0)
            with torch.set_grad_enabled(call.gradients > 0):
                total = network(batch).sum()
            for left in reversed(range(call.gradients)):
                torch.autograd.grad(total, batch, retain_graph=left > 0)
