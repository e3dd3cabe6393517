"""The images of a study: uint8 pixels, labels and stable ids, subset by the study's seed.

The subset is drawn from the labels of a source (see `sources`), so only images that are kept are
decoded. Importing this module imports neither torch nor torchvision nor any reader of files.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import sources
from harness.errors import HarnessError
from harness.sources import Source, Split, naming, size, some, stratified
from harness.spec import DatasetSpec


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


@dataclass(frozen=True)
class Dataset:
    """Both splits, of one image shape; ``classes[label]`` is a class's name. Every class has training images."""

    classes: tuple[str, ...]
    train: Images
    test: Images


def prepare(spec: DatasetSpec, data: Path | None) -> None:
    """Make sure that the source's files are there; download what is missing where that is possible.

    Looks at names only, so it is cheap when all is there. Raises HarnessError naming the files and
    where they belong, with the reason why a download failed.
    """
    if not all(path.is_file() for path in sources.expected_files(spec, data)):
        sources.existing_files(spec, data, why=sources.download(spec, data))


def fingerprint(spec: DatasetSpec, data: Path | None) -> str:
    """Hex SHA-256 of the source's files (names and bytes, nothing decoded), wherever the folder lies.

    Raises HarnessError when files are missing or cannot be read.
    """
    digest = hashlib.sha256(spec.source.encode())
    if spec.source == "digits":
        for array in sources.digits_arrays():
            digest.update(array.tobytes())
    for path in sources.existing_files(spec, data):
        with naming(path), path.open("rb") as file:
            digest.update(f"\n{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load(spec: DatasetSpec, data: Path | None, seed: int) -> Dataset:
    """The images that ``spec`` asks for: classes, then stratified images of each split, drawn by ``seed``.

    The draw from one split does not depend on the other's limit. Downloads nothing. Raises
    HarnessError when files are missing, truncated or corrupt, when labels or image sizes do not fit
    together, and when more classes or images are asked for than there are.
    """
    source = sources.open_source(spec, sources.existing_files(spec, data))
    classes = _present(spec, source)
    if spec.classes is not None:
        if spec.classes > len(classes):
            raise HarnessError(
                f"{spec.label}: expected at most the {len(classes)} classes present, got classes: {spec.classes}"
            )
        classes = np.sort(_generator(seed, "classes").permutation(classes)[: spec.classes])
    train, test = (_subset(spec, split, getattr(source, split), classes, seed) for split in ("train", "test"))
    names = tuple(source.names[label] for label in classes.tolist())
    empty = [name for label, name in enumerate(names) if not (train.labels == label).any()]
    if empty:
        raise HarnessError(
            f"{spec.label}: train_limit {spec.train_limit} leaves no training image of {some(empty)}"
        )
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise HarnessError(
            f"{spec.label}: expected images of one size, got {size(train.pixels)} (train) and {size(test.pixels)} (test)"
        )
    return Dataset(names, train, test)


# --- classes and subsets --------------------------------------------------------------------------


def _generator(seed: int, name: str) -> np.random.Generator:
    from harness.seeds import generator  # imports torch

    return generator(seed, "subset", name)


def _present(spec: DatasetSpec, source: Source) -> np.ndarray:
    """The labels in the training split, ascending, once both splits' labels are seen to fit."""
    present = np.unique(source.train.labels)
    unnamed = [label for label in present.tolist() if label not in source.names]
    if unnamed:
        raise HarnessError(
            f"{spec.label}: expected labels of the {len(source.names)} named classes, got {some(unnamed)} in train"
        )
    strange = [
        f"{label} ({source.names.get(label, 'unnamed')})"
        for label in np.setdiff1d(source.test.labels, present).tolist()
    ]
    if strange:
        raise HarnessError(f"{spec.label}: test has labels that no training image has: {some(strange)}")
    if len(present) < 2:
        raise HarnessError(f"{spec.label}: expected two classes or more in train, got {len(present)}")
    return present


def _subset(spec: DatasetSpec, name: str, split: Split, classes: np.ndarray, seed: int) -> Images:
    """The split's images of the source labels ``classes``, as many as the split's limit says."""
    keep = np.flatnonzero(np.isin(split.labels, classes))
    limit = getattr(spec, f"{name}_limit")
    if not len(keep):
        raise HarnessError(
            f"{spec.label}: expected {name} images of the classes {some(classes.tolist())}, got none"
        )
    if limit is not None and limit > len(keep):
        raise HarnessError(
            f"{spec.label}: expected {name}_limit to be at most the {len(keep)} images that there are, got {limit}"
        )
    if limit is not None and limit < len(keep):
        keep = keep[stratified(split.labels[keep], limit, _generator(seed, name))]
    ids = split.ids[keep]
    pixels = split.read(ids)
    # Flattened and shaped anew for canonical strides: a grey image's channel axis may have any, and torch
    # picks another kernel, with other last bits, when they look like channels_last.
    pixels = np.ascontiguousarray(pixels).reshape(-1).reshape(pixels.shape)
    return Images(pixels, np.searchsorted(classes, split.labels[keep]).astype(np.int64), ids)
