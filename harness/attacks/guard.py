"""Code that is not the harness's at work on images: batch by batch, from a seed, within a limit of time."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from harness import seeds

# Images [B, C, H, W], labels and ids int64 [B] -> images like them.
Make = Callable[[Tensor, Tensor, Tensor], Tensor]

_REPEATED_S = 1.0  # between alarms, once the time is up


def in_batches(
    make: Make, images: Tensor, labels: Tensor, ids: Tensor, size: int, seed: int, epsilon: float | None
) -> Tensor:
    """What ``make`` returns of at most ``size`` images at a time, in order.

    It gets copies, which it may change, and draws from global generators that are ``seeded`` for each batch.
    """
    made = []
    parts = (tensor.split(size) for tensor in (images, labels, ids))
    for part in zip(*parts, strict=True):
        with seeded(seed, part[2], epsilon):
            made.append(make(*(tensor.clone() for tensor in part)))
    return torch.cat(made)


@contextmanager
def seeded(seed: int, ids: Tensor, epsilon: float | None) -> Iterator[None]:
    """The global generators of torch, numpy and random seeded for one batch; as before afterwards.

    By the attack's seed, the id of the batch's first image (``ids`` int64 [B]) and the radius: what other
    batches or radii drew has no effect. Of torch's, that of the CPU and that of the images' device.
    """
    drawn = seeds.derive(seed, "global", int(ids[0]), epsilon)
    of_numpy, of_random = np.random.get_state(), random.getstate()
    gpus = [ids.device.index] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed: without a GPU, or before its first use, it takes a millisecond.
        torch.default_generator.manual_seed(drawn)
        for index in gpus:
            torch.cuda.default_generators[index].manual_seed(drawn)
        np.random.seed(drawn % 2**32)
        random.seed(drawn)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_random)


class _Expired(BaseException):
    """Not an Exception, which the code that it stops may catch."""


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """Stop the body, made by ``what``, after so many seconds: RuntimeError. None: no limit.

    A signal does it, so there is no limit but in a process's main thread, nor on Windows. One long call of
    native code ends first. As the handler and timer were, so they are afterwards.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main_thread or not hasattr(signal, "SIGALRM"):
        yield
        return
    is_over = False

    def expire(number: int, frame: FrameType | None) -> None:
        if not is_over:
            raise _Expired

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    # Again and again: what is raised within a finaliser is lost.
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _REPEATED_S)
    try:
        try:
            yield
        finally:
            is_over = True
    except _Expired as error:
        limit = f"{seconds:g} s for a block of images (compute.block_limit_s)"
        raise RuntimeError(f"{what} took longer than {limit}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            left = remaining - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)
