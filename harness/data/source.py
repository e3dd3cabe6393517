"""What a source of images is: its files, how they are fetched and read, and how many images they hold.

A source says which labels it has and how to read the pixels of given ids; which of them a study keeps
is for `datasets` to say.
"""

import math
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError

UNPACKED_LIMIT_BYTES = 4 * 2**30  # of one archive; the official ones hold a tenth of it
_RATIO = 100  # unpacked by packed, of what is not small; images and lists pack to a tenth
_SMALL_BYTES = 2**20
_TORCHVISION_TIMEOUT_S = 10


@dataclass(frozen=True)
class Split:
    """One split as the source has it.

    ``labels`` int64 [N], any numbers; ``ids`` int64 [N], ascending: an image's position in the source;
    ``read`` gives the images of some of these ids, ascending, as uint8 [n, C, H, W], 0..255, C is 1 or 3.
    """

    labels: np.ndarray
    ids: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Splits:
    """A source whose files are open; ``class_names`` maps every label that may occur to its class's name."""

    class_names: Mapping[int, str]
    train: Split
    test: Split


@dataclass(frozen=True)
class Extent:
    """How many images there are, and what they look like; ``shape`` is (channels, height, width)."""

    train: int
    test: int
    shape: tuple[int, int, int]
    classes: int
    validation: int = 0
    attacked: int | None = None  # test images in the white box; None for all

    @property
    def white_box(self) -> int:
        """Test images that are attacked in the white box."""
        return self.test if self.attacked is None else self.attacked

    @property
    def values(self) -> int:
        """Values of one image: C x H x W."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    ``files``: what it is made of, below the data folder, in a fixed order; none if a package brings it.
    ``open``: reads those files; raises HarnessError, at once or when pixels are read, for broken ones.
    ``locate``: where other files may stand for these: those that a folder has, in the order of ``files``.
    ``instead``: words on those others, for the message that files are missing.
    ``fetch``: downloads the files into the data folder, and raises what it likes; None: the user brings them.
    ``builtin``: the arrays of a source without files, whose content is part of a study's identity.
    ``in_folder``: whether the files lie in a folder that the study names.
    ``extent``: of the official files; None where it must be looked at.
    ``paper_dataset``: whether it is one of the paper's (IV), whose numbers stand beside ours.
    """

    files: tuple[str, ...]
    open: Callable[[list[Path]], Splits]
    locate: Callable[[Path], list[Path]] | None = None
    instead: str = ""
    fetch: Callable[[Path], None] | None = None
    builtin: Callable[[], Iterable[np.ndarray]] = tuple
    in_folder: bool = False
    extent: Extent | None = None
    paper_dataset: bool = False

    def files_in(self, folder: Path) -> list[Path]:
        """The files below a folder, whether or not they are there."""
        return self.locate(folder) if self.locate else [folder / name for name in self.files]


# --- for the sources ------------------------------------------------------------------------------


def in_memory(pixels: np.ndarray, labels: np.ndarray) -> Split:
    """A split whose pixels are read already; they are copied only where some are left out."""

    def read(ids: np.ndarray) -> np.ndarray:
        return pixels if len(ids) == len(pixels) else pixels[ids]

    return Split(labels.astype(np.int64), np.arange(len(labels)), read)


def evenly(count: int, most: int | None) -> np.ndarray:
    """At most so many positions below ``count``, ascending, from the first to the last; None: all of them."""
    kept = count if most is None else min(most, count)
    return np.linspace(0, count - 1, kept).round().astype(np.int64)


def stratified(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` positions in ``labels``, ascending.

    Each class has its share, by largest remainder, and its images are drawn at random.
    """
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    share, remainder = np.divmod(sizes * count, len(labels))  # whole numbers: no rounding decides a tie
    share[np.argsort(-remainder, kind="stable")[: count - share.sum()]] += 1
    order = np.lexsort((random.random(len(labels)), inverse))  # by class, shuffled within
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(share, sizes)])


def fetch_by_torchvision(name: str) -> Callable[[Path], None]:
    """torchvision's download of its data set ``name``; checks MD5s, and unpacks archives that are there."""

    def fetch(data: Path) -> None:
        from torchvision import datasets

        before = socket.getdefaulttimeout()
        # torchvision sets none: a silent mirror would hang for ever.
        socket.setdefaulttimeout(_TORCHVISION_TIMEOUT_S)
        try:
            getattr(datasets, name)(data, download=True)
        finally:
            socket.setdefaulttimeout(before)

    return fetch


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether so many packed bytes unpack to more than images ever do."""
    return unpacked > max(_SMALL_BYTES, _RATIO * packed)


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Name what is broken. Readers of foreign bytes raise errors of every kind, so every kind is caught."""
    try:
        yield
    except (HarnessError, MemoryError):
        raise
    except Exception as error:
        raise HarnessError(
            f"{place}: cannot be read; truncated or corrupt? {type(error).__name__}: {error}"
        ) from error


def size_text(pixels: np.ndarray) -> str:
    """The size of an image [C, H, W], or of each of many [N, C, H, W], for a message."""
    channels, height, width = pixels.shape[-3:]
    return f"{width}x{height} with {channels} channel(s)"


def first_few(things: Iterable[Any]) -> str:
    """The first five, for a message."""
    words = [str(thing) for thing in things]
    more = f" and {len(words) - 5} more" if len(words) > 5 else ""
    return ", ".join(words[:5]) + more
