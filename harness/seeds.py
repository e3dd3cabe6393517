"""Randomness as an argument: seeds derived by name, and draws addressed by image.

A draw depends on (seed, image id, draw index, pixel) and on nothing else: not on the batch, the
shard or a global generator. The number of workers can therefore change no number. Words and uniform draws
are the same bits on every device; normal draws differ in their last ones, as logarithm and cosine do.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

_M32 = 0xFFFFFFFF
# Philox-4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.2.
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUNDS = 10


def derive(root: int, *names: str | int | float | None) -> int:
    """A 63-bit seed for the thing called ``names`` under the study's seed ``root``."""
    text = "\x1f".join([str(root), *map(repr, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(root: int, *names: str | int | float | None) -> np.random.Generator:
    """A numpy generator seeded by ``derive(root, *names)``; for order and subsets, not for noise."""
    return np.random.Generator(np.random.PCG64(derive(root, *names)))


Words = tuple[Tensor, Tensor, Tensor, Tensor]
Keys = Sequence[tuple[int, int]] | Tensor  # two a round


def philox(counter: Words, seed: int) -> Words:
    """Philox-4x32-10: four int64 tensors holding 32-bit counters to four tensors of 32-bit words."""
    return _rounds(counter, _keys(seed))


def _rounds(counter: Words, keys: Keys) -> Words:
    """torch has no unsigned 64-bit product, but a wrapped int64 product has the same low 64 bits, so the high
    word is its arithmetic shift masked to 32 bits.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in keys:
        p0, p1 = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
        # In place what is new: on large batches half of the time went into fresh memory.
        c0 = (p1 >> 32).bitwise_and_(_M32).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(_M32).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(_M32), p0.bitwise_and_(_M32)
    return c0, c1, c2, c3


def _keys(seed: int) -> list[tuple[int, int]]:
    k0, k1 = seed & _M32, (seed >> 32) & _M32
    first, second = _PHILOX_WEYL
    return [((k0 + turn * first) & _M32, (k1 + turn * second) & _M32) for turn in range(_PHILOX_ROUNDS)]


def _words(seed: int, ids: Tensor, draw: Tensor, size: int) -> Words:
    """Random words for each (image, draw): four tensors [B, ceil(size / 4)]."""
    return _keyed_words(_keys(seed), ids, draw, size)


def _keyed_words(keys: Keys, ids: Tensor, draw: Tensor, size: int) -> Words:
    block = torch.arange((size + 3) // 4, device=ids.device)
    zero = block.new_zeros(len(ids), len(block))
    draw, low, high = draw[:, None], (ids & _M32)[:, None], ((ids >> 32) & _M32)[:, None]
    return _rounds((block + zero, draw + zero, low + zero, high + zero), keys)


def uniform(seed: int, ids: Tensor, draw: Tensor, size: int) -> Tensor:
    """float32 [B, size] uniform in (0, 1): row b depends on (seed, ids[b], draw[b]) alone.

    ``ids`` and ``draw`` are int64 [B].
    """
    return torch.stack(_units(_keys(seed), ids, draw, size), dim=-1).flatten(1)[:, :size]


def normal(seed: int, ids: Tensor, draw: Tensor, size: int, fused: bool = False) -> Tensor:
    """float32 [B, size] standard normal (Box-Muller): row b depends on (seed, ids[b], draw[b]) alone.

    ``fused``: on a GPU in a dozen kernels instead of 150. The first call of a process compiles them, so it is
    for many calls. The values are the same: what is compiled is exact, logarithm and cosine are not in it.
    """
    if fused and ids.is_cuda:
        w0, w1, w2, w3 = _fused_units(ids.device)(_keys_on(seed, ids.device), ids, draw, size)
    else:
        w0, w1, w2, w3 = _units(_keys(seed), ids, draw, size)
    r0, r1 = w0.log_().mul_(-2).sqrt_(), w2.log_().mul_(-2).sqrt_()
    a0, a1 = w1.mul_(2 * torch.pi), w3.mul_(2 * torch.pi)
    return torch.stack([r0 * a0.cos(), r0 * a0.sin(), r1 * a1.cos(), r1 * a1.sin()], dim=-1).flatten(1)[
        :, :size
    ]


def _units(keys: Keys, ids: Tensor, draw: Tensor, size: int) -> Words:
    """Float32 in (0, 1) for each (image, draw): four tensors [B, ceil(size / 4)]."""
    w0, w1, w2, w3 = _keyed_words(keys, ids, draw, size)
    return _unit(w0), _unit(w1), _unit(w2), _unit(w3)


def _unit(words: Tensor) -> Tensor:
    """32-bit words to float32 in (0, 1): 23 bits and half a step, which float32 holds exactly, so never 0 or
    1.
    """
    return (words >> 9).float().add_(0.5).mul_(2.0**-23)


# --- fused -------------------------------------------------------------------------------------------
# Not on CPUs, where compiling takes 20 s and a C++ compiler, and a step of the defense gains 3 % at most.


@cache
def _fused_units(device: torch.device) -> Callable[[Tensor, Tensor, Tensor, int], Words]:
    """``_units`` as one kernel for all sizes; as it is, with a warning why, where it can't be compiled."""
    # Compiled in this process: a pool of compilers would outlive its work.
    compiled = torch.compile(_units, dynamic=True, options={"compile_threads": 1})
    some = torch.arange(2, device=device)
    try:
        compiled(_keys_on(0, device), some, some, 8)
    except Exception as error:  # the compiler's, of which there are many kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        warnings.warn(f"noise takes 150 kernels a step: they could not be made one: {reason}", stacklevel=2)
        return _units
    return compiled


@lru_cache(maxsize=64)
def _keys_on(seed: int, device: torch.device) -> Tensor:
    """int64 [rounds, 2] on a device, which would have to wait for each copy."""
    return torch.tensor(_keys(seed), device=device)
