"""Batches that stay full: an image that is done leaves the network's batch, and the next one takes its place."""

from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]  # what an attack knows of each image: a row an image in every tensor


def compacted(images: State, size: int, step: Callable[[State], tuple[State, Tensor]]) -> State:
    """Every image taken through ``step`` until it is done, ``size`` of them at a time; their last states, in order.

    ``step`` makes one iteration of a batch of states and says which images are done, bool [B]. As each
    iterates until it is done itself, and its state is its own, it does not matter which share a batch.
    """
    last = {name: value.clone() for name, value in images.items()}
    count = len(next(iter(last.values())))
    slots = torch.arange(min(size, count), device=next(iter(last.values())).device)  # the images in the batch
    waiting = len(slots)  # the next image to enter
    batch = {name: value[slots] for name, value in images.items()}
    while len(slots):
        batch, done = step(batch)
        if not done.any():
            continue
        entering = torch.arange(waiting, min(waiting + int(done.sum()), count), device=slots.device)
        waiting += len(entering)
        for name, value in batch.items():
            last[name][slots[done]] = value[done]
            batch[name] = torch.cat([value[~done], images[name][entering]])
        slots = torch.cat([slots[~done], entering])
    return last
