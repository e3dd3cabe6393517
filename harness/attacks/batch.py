"""A batch under attack: gradients with respect to images, weights left alone, and a batch that stays full."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.networks.classifier import Classifier, low_precision
from harness.networks.randomised import Expected

# What an attack knows of each image: a row an image in every tensor, by the same names in all attacks.
#   clean, label, id    what it was given
#   x                   where the image is, [B, C, H, W]
#   kept                the image to return, where that is not x
#   step                steps since it last began, int64
State = dict[str, Tensor]


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
    """The network to take gradients of: itself for 'float32', for 'bfloat16' a copy that computes in it.

    Raises ValueError where it is not a ``Classifier``, whose body alone the copy computes differently.
    """
    if precision == "float32":
        return network
    if isinstance(network, Expected):
        return Expected(differentiable(network.network, precision), network.draws)
    if not isinstance(network, Classifier):
        raise ValueError(f"gradients in {precision} need a Classifier, got {type(network).__name__}")
    return low_precision(network)


def may_leave(network: nn.Module) -> bool:
    """Whether an image may leave where it is first fooled: not where the network draws, as a lucky draw fools
    nobody again.
    """
    return not getattr(network, "draws", 0)


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
    """How many logits the network returns of an image."""
    with torch.no_grad():
        return network(images[:1]).shape[1]


# --- a batch that stays full ------------------------------------------------------------------------

Step = Callable[[State], tuple[State, Tensor]]

_LOOKS_EVERY = 4  # steps, where a look makes the host wait for a GPU


def looks_every(device: torch.device) -> int:
    """After how many steps to look who is done, of attacks that leave an image alone that is done.

    On a CPU after each: there a step of images that are done costs more than the look.
    """
    return 1 if device.type == "cpu" else _LOOKS_EVERY


def compacted(images: State, size: int, step: Step, every: int = 1) -> Tensor:
    """Images taken through ``step`` until they are done, ``size`` at a time: what is kept of them, in order.

    ``step`` makes one iteration of a batch of states and says which images are done, bool [B]: those leave
    the batch, and the next ones take their place. As each iterates until it is done itself, and its state is
    its own, it does not matter which share a batch. What it is given is the batch's own: it may change it.

    They leave only after ``every`` steps, for a ``step`` that no longer changes what is kept of an image that
    is done, and goes on to call it so. On a GPU the host waits once for every look, and not for those
    that leave.
    """
    result = "kept" if "kept" in images else "x"
    last = torch.empty_like(images[result])
    count, device = len(last), last.device
    waiting = min(size, count)  # the next image to enter
    slots = torch.arange(waiting, device=device)  # the images in the batch
    batch = {name: value[:waiting].clone() for name, value in images.items()}
    while len(slots):
        for _ in range(every):
            batch, done = step(batch)
        leaving = int(done.sum())
        if not leaving:
            continue
        stay, leave = done.byte().argsort(stable=True).split([len(slots) - leaving, leaving])
        last.index_copy_(0, slots[leave], batch[result].detach()[leave])
        entering = slice(waiting, min(waiting + leaving, count))
        waiting = entering.stop
        batch = {name: _replaced(value, stay, images[name][entering]) for name, value in batch.items()}
        slots = torch.cat([slots[stay], torch.arange(entering.start, entering.stop, device=device)])
    return last


def _replaced(values: Tensor, stay: Tensor, entering: Tensor) -> Tensor:
    """The rows ``stay`` (int64) of a batch, and after them those that enter."""
    stayed = values.detach()[stay]
    return torch.cat([stayed, entering]) if len(entering) else stayed
