"""The last finished epoch of a training that is not done: one atomic file, gone when its cell is there."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.results.cells import Cell
from harness.results.storage import Folder

_FOLDER = "checkpoints"


def path_of(cell: Cell) -> Path:
    """Where a training keeps its last finished epoch; gone when the cell is done."""
    return Path(_FOLDER, cell.path).with_suffix(".checkpoint")


def paths(folder: Folder) -> list[Path]:
    """All checkpoints, relative to the root."""
    return list(folder.files(_FOLDER, ".checkpoint"))


def save(folder: Folder, cell: Cell, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Replace the training's checkpoint: tensors and plain state, one atomic file."""
    from safetensors.numpy import save as encoded

    payload = encoded(
        {name: np.asarray(value, order="C") for name, value in tensors.items()}, {"state": json.dumps(state)}
    )
    folder.write(path_of(cell), hashlib.sha256(payload).digest() + payload)


def load(folder: Folder, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The last checkpoint, or None where there is none or it is damaged (the training then starts over)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as decoded

    try:
        payload = _payload(folder.read(path_of(cell)))
    except FileNotFoundError:
        return None
    if payload is None:
        return None
    try:
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        return decoded(payload), json.loads(header["__metadata__"]["state"])
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def drop(folder: Folder, cell: Cell) -> None:
    """Forget the training's checkpoint, if there is one."""
    folder.delete(path_of(cell))


def is_whole(folder: Folder, path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written, or its training is done and it has gone."""
    try:
        return _payload(folder.read(path)) is not None
    except FileNotFoundError:
        return True


def _payload(content: bytes) -> bytes | None:
    """The payload of a checkpoint file; None where its digest does not fit."""
    digest, payload = content[:32], content[32:]
    return payload if hashlib.sha256(payload).digest() == digest else None
