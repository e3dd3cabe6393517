"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28 x 28 grey images in idx files.

The files lie as torchvision lays them out, each unpacked or, where it is not, as it is published: ``.gz``.
"""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.data.source import (
    UNPACKED_LIMIT_BYTES,
    Extent,
    Source,
    Split,
    Splits,
    fetch_by_torchvision,
    in_memory,
    is_bomb,
    reading,
)
from harness.errors import HarnessError

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_EXTENT = Extent(train=60_000, test=10_000, shape=(1, 28, 28), classes=10)


def _source(name: str, class_names: tuple[str, ...], paper_dataset: bool) -> Source:
    """The source that torchvision calls ``name``."""
    files = tuple(f"{name}/raw/{file}" for file in _FILES)
    return Source(
        files=files,
        open=_open(class_names),
        locate=lambda folder: [_unpacked_or_packed(folder / file) for file in files],
        instead=" (or .gz files of them)",
        fetch=fetch_by_torchvision(name),
        extent=_EXTENT,
        paper_dataset=paper_dataset,
    )


def _unpacked_or_packed(path: Path) -> Path:
    """The file, or its ``.gz`` where only that is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _open(class_names: tuple[str, ...]) -> Callable[[list[Path]], Splits]:
    def read(files: list[Path]) -> Splits:
        return Splits(dict(enumerate(class_names)), _split(*files[:2]), _split(*files[2:]))

    return read


def _split(images: Path, labels: Path) -> Split:
    pixels, targets = _read_idx(images, 3), _read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise HarnessError(
            f"{labels}: expected a label for each of the {len(pixels)} images of {images.name},"
            f" got {len(targets)}"
        )
    return in_memory(pixels[:, None], targets)


# --- idx files --------------------------------------------------------------------------------------


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The values of an idx file, uint8, of the shape that its header gives."""
    with reading(path):
        raw = _unpack(path, dimensions) if path.suffix == ".gz" else np.fromfile(path, np.uint8)
    header = _header_bytes(dimensions)
    shape = _shape(path, raw[:header].tobytes(), dimensions)
    promised = header + math.prod(shape)
    if len(raw) != promised:
        raise HarnessError(
            f"{path}: truncated or corrupt: its header promises {promised} bytes, it has {len(raw)}"
        )
    return raw[header:].reshape(shape)


def _header_bytes(dimensions: int) -> int:
    return 4 + 4 * dimensions


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """From a header: bytes 0, 0, 8 (uint8), number of dimensions; their lengths, big-endian 32 bit."""
    if len(header) < _header_bytes(dimensions) or header[:4] != bytes([0, 0, 8, dimensions]):
        raise HarnessError(
            f"{path}: expected an idx file of {dimensions}-d bytes, got one that begins {header[:4]!r}"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _unpack(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file in a ``.gz``; unpacks no more of it than its header promises."""
    packed = path.stat().st_size
    with gzip.open(path) as file:
        header = file.read(_header_bytes(dimensions))
        count = math.prod(_shape(path, header, dimensions))
        promised = len(header) + count
        if is_bomb(packed, promised) or promised > UNPACKED_LIMIT_BYTES:
            raise HarnessError(f"{path}: refused: its header promises {promised} bytes, packed into {packed}")
        values = file.read(count)
        if file.read(1):  # at the end of the file, this compares its checksum
            raise HarnessError(f"{path}: refused: it unpacks to more than the {promised} bytes of its header")
    return np.frombuffer(bytearray(header + values), np.uint8)


MNIST = _source("MNIST", tuple("0123456789"), paper_dataset=True)
FASHION_MNIST = _source("FashionMNIST", _FASHION, paper_dataset=False)
