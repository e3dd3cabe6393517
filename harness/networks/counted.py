"""What a piece of work asks of a device: floating-point operations and launches, counted and not timed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.networks.classifier import as_input

_ATEN = torch.ops.aten
# No kernel: another view, or memory.
_FREE = {
    _ATEN.detach.default,
    _ATEN.detach_.default,
    _ATEN.lift_fresh.default,
    _ATEN._unsafe_view.default,
    _ATEN._reshape_alias.default,
    _ATEN.empty.memory_format,
    _ATEN.empty_like.default,
    _ATEN.empty_strided.default,
    _ATEN.new_empty.default,
    _ATEN.new_empty_strided.default,
    _ATEN._local_scalar_dense.default,
}


def flops(work: Callable[[], object]) -> float:
    """Of products and convolutions. ``work`` takes no gradients to a leaf that enters a module."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def launches(work: Callable[[], object]) -> int:
    """Operations that compute, each at least a kernel on a GPU, wherever they run now."""
    with _Launches() as counter:
        work()
    return counter.count


def is_launched(operation: Any) -> bool:
    """Whether an operation of ATen computes, and does not only make another view, or room."""
    return operation not in _FREE and not operation.is_view


class _Launches(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += is_launched(operation)
        return operation(*args, **(kwargs or {}))


def step_flops(network: nn.Module, images: Tensor) -> float:
    """Floating-point operations an image of one training step, forward and backward.

    Counted on ``images`` [B, C, H, W], not timed.
    """
    mode = network.training
    network.eval()  # in training mode batch statistics need more images than one
    weights = [p for p in network.parameters() if p.requires_grad]
    counted = flops(lambda: torch.autograd.grad(network(as_input(images)).sum(), weights))
    network.train(mode)
    return counted / len(images)
