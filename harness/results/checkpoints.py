"""A late epoch of a training that is not done: one atomic file, gone when its cell is there.

The file is that of safetensors, with the plain state in its header, and the sha256 of that at its end.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from harness.results.cells import Cell
from harness.results.storage import Folder

_FOLDER = "checkpoints"
_DIGEST = hashlib.sha256().digest_size


def path_of(cell: Cell) -> Path:
    """Where a training keeps an epoch; gone when the cell is done."""
    return Path(_FOLDER, cell.path).with_suffix(".checkpoint")


def paths(folder: Folder) -> list[Path]:
    """All checkpoints, relative to the root."""
    return list(folder.files(_FOLDER, ".checkpoint"))


class Keeper:
    """Keeps the epochs of a training: one every ``interval_s`` seconds, written by a thread.

    A kill loses that time at most, beside the epoch under way. With 0 every epoch is kept, and is on the disk
    when ``keep`` returns.
    """

    def __init__(self, folder: Folder, cell: Cell, interval_s: float) -> None:
        self._folder, self._cell, self._interval_s = folder, cell, interval_s
        self._due = time.monotonic() + interval_s
        self._thread, self._writing = ThreadPoolExecutor(1, "checkpoint"), Future[None]()
        self._writing.set_result(None)

    def keep(self, state: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]) -> None:
        """Keep an epoch if it is time; what ``state`` returns is then no longer anyone else's to change.

        Raises what the last write raised, HarnessError where the storage refused.
        """
        if self._interval_s and not self._writing.done():
            return
        self._writing.result()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval_s
            self._writing = self._thread.submit(save, self._folder, self._cell, *state())
        if not self._interval_s:
            self._writing.result()

    def end(self) -> None:
        """The training is done or given up: wait until nothing is written any more, whatever came of it."""
        self._thread.shutdown()


def save(folder: Folder, cell: Cell, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Replace the training's checkpoint: tensors and plain state, one atomic file."""
    from safetensors.numpy import save as encoded

    ordered = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    folder.write(path_of(cell), _signed(encoded(ordered, {"state": json.dumps(state)})))


def _signed(payload: bytes) -> Iterator[bytes]:
    """The payload and, once that is written, its digest: no copy of both is made."""
    yield payload
    yield hashlib.sha256(payload).digest()


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
    payload, digest = content[:-_DIGEST], content[-_DIGEST:]
    return payload if hashlib.sha256(payload).digest() == digest else None
