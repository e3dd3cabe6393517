"""The gradient to the image through a network's first convolution, which CPUs waste most of their work on.

oneDNN computes input channels by the vector, 16 at a time, and images have 1 or 3. So the backward pass of
the first layer takes as long as that of a layer of 16 channels: a tenth of an attack on a small network. Here
the channels of a block of 2 x 2 or 4 x 4 pixels fill the vector: one convolution with a stride of the block.
Each value is the same sum, taken in the same order where it was tried (AVX-512): equal to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_VECTOR = 16  # channels that are computed at once
_BLOCKS = (4, 2)  # pixels a side
_FEW_IMAGES = 4  # smaller batches have kernels of their own in torch
_FEW_PIXELS = 256  # in a smaller image there is nothing to gain


@contextmanager
def quick_first_layer(network: nn.Module) -> Iterator[None]:
    """Gradients to images by blocks of pixels meanwhile, through layers that take few channels.

    Plain 3 x 3 convolutions and the like, channels last, on a CPU, whose weights take no gradients; all else
    is computed as ever.
    """
    layers = [module for module in network.modules() if _is_narrow(module)]
    for layer in layers:
        # The instance's, so that copies of the network (``low_precision``) have it as well.
        layer.forward = MethodType(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_narrow(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or "forward" in vars(module):
        return False
    side, padding = module.kernel_size[0], module.padding
    return (
        module.in_channels * min(_BLOCKS) ** 2 <= _VECTOR
        and module.padding_mode == "zeros"
        and (module.groups, module.stride, module.dilation) == (1, (1, 1), (1, 1))
        and module.kernel_size == (side, side)
        and isinstance(padding, tuple)
        and padding[0] == padding[1] < side
    )


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    weight = self.weight
    block = _block(x.shape) if torch.is_grad_enabled() and _is_usual(x, weight) else None
    if block is None:
        return nn.Conv2d.forward(self, x)
    kernel = _blocked(weight, block)
    outputs: Tensor = _ByBlocks.apply(x, weight, self.bias, kernel, self.padding[0], block)
    return outputs


def _is_usual(x: Tensor, weight: Tensor) -> bool:
    """Whether torch would take the kernels whose sums ours are."""
    return (
        x.requires_grad
        and not weight.requires_grad
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and weight.stride(1) == 1
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
    )


def _block(shape: torch.Size) -> int | None:
    """The side of the largest block that divides images [B, C, H, W] and whose channels fit; None: none."""
    count, channels, height, width = shape
    if count < _FEW_IMAGES or height * width < _FEW_PIXELS:
        return None
    fits = (b for b in _BLOCKS if channels * b * b <= _VECTOR and not height % b and not width % b)
    return next(fits, None)


class _ByBlocks(torch.autograd.Function):
    """A convolution of stride 1 whose gradient to its input is a convolution of stride ``block``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor, padding: int, block: int
    ) -> Tensor:
        return functional.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, _, kernel, padding, block = inputs
        ctx.save_for_backward(kernel)
        ctx.padding, ctx.block = weight.shape[2] - 1 - padding, block

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (kernel,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        blocks = functional.conv2d(gradient, kernel, stride=ctx.block, padding=ctx.padding)
        return functional.pixel_shuffle(blocks, ctx.block), None, None, None, None, None


def _blocked(weight: Tensor, block: int) -> Tensor:
    """The weights [out, in, k, k] turned round, shifted to each pixel of a block:
    [in * block^2, out, k + block - 1, k + block - 1].
    """
    outputs, inputs, side, _ = weight.shape
    flat = functional.pad(weight.detach().reshape(outputs, inputs, side * side), (0, 1))
    wide = side + block - 1
    kernel = flat[:, :, _places(side, block)].view(outputs, -1, wide, wide)
    return kernel.transpose(0, 1).contiguous(memory_format=torch.channels_last)


@lru_cache
def _places(side: int, block: int) -> Tensor:
    """Which weight of k x k each place of the larger kernel holds, for each pixel of the block.

    int64 [block^2, (k + block - 1)^2]; k x k where it holds none, a zero.
    """
    place = side - 1 - (torch.arange(side + block - 1) - torch.arange(block)[:, None])
    row, column = place[:, None, :, None], place[None, :, None, :]
    is_inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return torch.where(is_inside, row * side + column, side * side).reshape(block**2, -1)
