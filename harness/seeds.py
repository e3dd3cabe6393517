"""Randomness as an argument: seeds derived by name, and draws addressed by image.

A draw depends on (seed, image id, draw index, pixel) and on nothing else: not on the batch, the
shard or a global generator. The number of workers can therefore change no number. Words and uniform draws
are the same bits on every device; normal draws differ in their last ones, as logarithm and cosine do.
"""

import hashlib

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


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32-10: four int64 tensors holding 32-bit counters to four tensors of 32-bit words.

    torch has no unsigned 64-bit product, but a wrapped int64 product has the same low 64 bits,
    so the high word is its arithmetic shift masked to 32 bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _M32, (seed >> 32) & _M32
    for _ in range(_PHILOX_ROUNDS):
        p0, p1 = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _M32) ^ c1 ^ k0,
            p1 & _M32,
            ((p0 >> 32) & _M32) ^ c3 ^ k1,
            p0 & _M32,
        )
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _M32, (k1 + _PHILOX_WEYL[1]) & _M32
    return c0, c1, c2, c3


def _words(seed: int, ids: Tensor, draw: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random words for each (image, draw): four tensors [B, ceil(size / 4)]."""
    block = torch.arange((size + 3) // 4, device=ids.device)[None, :]
    ids = ids[:, None]
    zero = torch.zeros_like(block)
    return philox(
        (block + zero, draw[:, None] + zero, (ids & _M32) + zero, ((ids >> 32) & _M32) + zero), seed
    )


def uniform(seed: int, ids: Tensor, draw: Tensor, size: int) -> Tensor:
    """float32 [B, size] uniform in (0, 1): row b depends on (seed, ids[b], draw[b]) alone.

    ``ids`` and ``draw`` are int64 [B].
    """
    return _unit(torch.stack(_words(seed, ids, draw, size), dim=-1).flatten(1)[:, :size])


def _unit(words: Tensor) -> Tensor:
    """32-bit words to float32 in (0, 1): 23 bits and half a step, which float32 holds exactly, so never 0 or
    1.
    """
    return ((words >> 9).float() + 0.5) * 2.0**-23


def normal(seed: int, ids: Tensor, draw: Tensor, size: int) -> Tensor:
    """float32 [B, size] standard normal (Box-Muller): row b depends on (seed, ids[b], draw[b]) alone."""
    w0, w1, w2, w3 = (_unit(word) for word in _words(seed, ids, draw, size))
    r0, r1 = (-2 * w0.log()).sqrt(), (-2 * w2.log()).sqrt()
    a0, a1 = (2 * torch.pi) * w1, (2 * torch.pi) * w3
    return torch.stack([r0 * a0.cos(), r0 * a0.sin(), r1 * a1.cos(), r1 * a1.sin()], dim=-1).flatten(1)[
        :, :size
    ]
