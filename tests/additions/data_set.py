"""Stripes: two classes, by the direction of a wave."""

from pathlib import Path

import numpy as np

from harness.data.source import Source, Splits, in_memory


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [100, 1, 8, 8], and labels int64 [100]."""
    random = np.random.default_rng(0)
    labels = np.arange(100) % 2
    wave = 128 + 100 * np.sin(np.arange(8))
    upright = np.broadcast_to(wave, (8, 8))
    noise = random.normal(0, 30, (100, 8, 8))
    images = np.where(labels[:, None, None] == 0, upright, upright.T) + noise
    return images.clip(0, 255).astype(np.uint8)[:, None], labels


def _open(_: list[Path]) -> Splits:
    pixels, labels = _arrays()
    return Splits(
        {0: "upright", 1: "level"}, in_memory(pixels[:60], labels[:60]), in_memory(pixels[60:], labels[60:])
    )


STRIPES = Source(files=(), open=_open, builtin=_arrays)
