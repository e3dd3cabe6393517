"""The images of a study: where their files are, and uint8 pixels, labels and stable ids of those it keeps.

The subset is drawn from the labels of a source (see `subset`), so only images that are kept are decoded.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data import SOURCES
from harness.data.source import Split, evenly, first_few, reading, size_text
from harness.data.subset import DatasetSpec, held_out, in_white_box, kept_classes, kept_images
from harness.errors import HarnessError


@dataclass(frozen=True)
class Images:
    """One split; row i of each array is one image.

    ``pixels`` uint8 [N, C, H, W], 0..255, C-contiguous, C is 1 or 3; ``labels`` int64 [N],
    0..classes-1; ``ids`` int64 [N], ascending: the image's position in the source before any subset.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def take(self, which: "np.ndarray | slice") -> "Images":
        """The images at some positions: a view for a slice, a copy for an index array."""
        return Images(self.pixels[which], self.labels[which], self.ids[which])

    def evenly(self, most: int) -> "Images":
        """At most so many of the images, at even distances."""
        return self.take(evenly(len(self.ids), most))


@dataclass(frozen=True)
class Dataset:
    """The splits, of one image shape; ``classes[label]`` is a class's name.

    Every class has training images, and validation images where there are any: held out of the training
    images, for choices that must not be made on test images. ``white_box``: the test images that are attacked
    in the white box, all where None.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    validation: Images | None = None
    white_box: Images | None = None

    def of(self, split: str) -> Images:
        """The images of 'train', 'validation', 'test' or 'white_box'."""
        images: Images | None = getattr(self, split)
        if split == "white_box" and images is None:
            return self.test
        assert images is not None, f"no {split} images"
        return images


# --- files ------------------------------------------------------------------------------------------


def expected_files(spec: DatasetSpec, data: Path | None) -> list[Path]:
    """The files that make up the data set, in a fixed order, whether or not they are there.

    Raises HarnessError where no data folder is given and one is needed.
    """
    source = SOURCES[spec.source]
    folder = Path(spec.folder or "").expanduser()
    if not source.files:
        return []
    if data is None and not folder.is_absolute():
        belongs = ", ".join(str(folder / name) for name in source.files)
        raise HarnessError(
            f"{spec.label}: expected a data folder with {belongs}; --data or HARNESS_DATA sets it"
        )
    return source.files_in((data or Path()) / folder)


def prepare(spec: DatasetSpec, data: Path | None) -> None:
    """Make sure that the data set's files are there; download what is missing where that is possible.

    Looks at names only, so it is cheap when all is there. Raises HarnessError naming the files and
    where they belong, with the reason why a download failed.
    """
    if not all(path.is_file() for path in expected_files(spec, data)):
        _existing_files(spec, data, _download(spec, data))


def fingerprint(spec: DatasetSpec, data: Path | None) -> str:
    """Hex SHA-256 of the data set's files (names and bytes, nothing decoded), wherever the folder lies.

    Raises HarnessError when files are missing or cannot be read.
    """
    digest = hashlib.sha256(spec.source.encode())
    for array in SOURCES[spec.source].builtin():
        digest.update(array.tobytes())
    for path in _existing_files(spec, data):
        with reading(path), path.open("rb") as file:
            digest.update(f"\n{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _existing_files(spec: DatasetSpec, data: Path | None, why: str = "") -> list[Path]:
    """The data set's files; raises HarnessError, with the words ``why``, unless all are there."""
    files = expected_files(spec, data)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise HarnessError(
            f"{spec.label}: expected {first_few(missing)}{SOURCES[spec.source].instead};"
            f" --data or HARNESS_DATA sets the data folder{why}"
        )
    return files


def _download(spec: DatasetSpec, data: Path | None) -> str:
    """Try to fetch the source into ``data``; words on why that could not be, or nothing."""
    fetch = SOURCES[spec.source].fetch
    if fetch is None or data is None:
        return ""
    if not data.is_dir() or not os.access(data, os.W_OK):
        return f". Not downloaded: {data} is not a folder that can be written to"
    try:
        fetch(data)
    except Exception as error:  # network, mirror, archive, disk: whatever stopped it, the user reads it
        return f". The download failed: {type(error).__name__}: {error}"
    return ""


# --- images -----------------------------------------------------------------------------------------


def image_shape(spec: DatasetSpec, data: Path | None) -> tuple[int, int, int] | None:
    """C, H, W of the source's first training image; None where its files are not there.

    Raises HarnessError when files that are there are truncated or corrupt.
    """
    source = SOURCES[spec.source]
    if source.files and data is None:
        return None
    files = expected_files(spec, data)
    if not all(path.is_file() for path in files):
        return None
    train = source.open(files).train
    _, channels, height, width = train.read(train.ids[:1]).shape
    return channels, height, width


def load(spec: DatasetSpec, data: Path | None) -> Dataset:
    """The images that ``spec`` asks for: classes, then stratified images of each split, drawn by its seed.

    The draw from one split does not depend on the other's limit; validation images are drawn of the training
    images that are kept. Downloads nothing. Raises HarnessError when files are missing, truncated or corrupt,
    when labels or image sizes do not fit together, when more classes or images are asked for than there are,
    and when a class is left without an image.
    """
    splits = SOURCES[spec.source].open(_existing_files(spec, data))
    classes = kept_classes(spec, splits)
    train = _images(spec, "train", splits.train, classes)
    test = _images(spec, "test", splits.test, classes)
    names = tuple(splits.class_names[label] for label in classes.tolist())
    empty = [name for label, name in enumerate(names) if not (train.labels == label).any()]
    if empty:
        raise HarnessError(
            f"{spec.label}: train_limit {spec.train_limit} leaves no training image of {first_few(empty)}"
        )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise HarnessError(
            f"{spec.label}: expected images of one size,"
            f" got {size_text(train.pixels)} (train) and {size_text(test.pixels)} (test)"
        )
    held = held_out(spec, train.labels, names)
    attacked = None if spec.white_box_limit is None else test.take(in_white_box(spec, test.labels))
    if not held.any():
        return Dataset(names, train, test, None, attacked)
    kept, chosen_on = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return Dataset(names, kept, test, chosen_on, attacked)


def _images(spec: DatasetSpec, name: str, split: Split, classes: np.ndarray) -> Images:
    """The images that are kept of a split; ``classes`` are the source's labels of the classes 0, 1, ..."""
    keep = kept_images(spec, name, split.labels, classes)
    ids = split.ids[keep]
    pixels = split.read(ids)
    # Flattened and shaped anew for canonical strides: a grey image's channel axis may have any, and torch
    # picks another kernel, with other last bits, when they look like channels_last.
    pixels = np.ascontiguousarray(pixels).reshape(-1).reshape(pixels.shape)
    return Images(pixels, np.searchsorted(classes, split.labels[keep]).astype(np.int64), ids)
