"""The files of each source: where they belong, how they are fetched, and how labels and pixels are read.

This is the one place to add a data set: its files in ``_FILES``, a reader that `open_source` picks, and
its name in ``spec.DatasetSpec``. A source says which labels it has and how to read the pixels of given
ids; which of them a study keeps is for `datasets` to say. Importing this module imports neither torch
nor torchvision nor any reader of files; the functions that need one do.
"""

import hashlib
import io
import json
import math
import os
import re
import socket
import stat
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any, cast

import numpy as np

from harness.errors import HarnessError
from harness.spec import DatasetSpec

_TINY = "tiny-imagenet-200"
_TINY_URL = f"http://cs231n.stanford.edu/{_TINY}.zip"
_TINY_BYTES, _TINY_MD5 = 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"
_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
_FILES = {  # below the data folder, as torchvision lays them out
    "mnist": tuple(f"MNIST/raw/{name}" for name in _IDX),
    "fashion_mnist": tuple(f"FashionMNIST/raw/{name}" for name in _IDX),
    "cifar10": tuple(f"cifar-10-batches-py/{name}" for name in _CIFAR),
    "tinyimagenet": (f"{_TINY}.zip",),
}
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
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

_TINY_TIMEOUT_S, _TORCHVISION_TIMEOUT_S = 20, 10
_ZIP_LIMIT_BYTES = 4 * 2**30  # of all members, unpacked; the official zip has a tenth of it
_ZIP_RATIO, _ZIP_SMALL_BYTES = (
    100,
    2**20,
)  # unpacked by packed, of a member that is not small; images and lists pack to a tenth
_DIGITS_SPLIT_SEED = 0  # the split of digits belongs to the source, so no study's seed moves it
_THREADS, _BLOCK = 4, 1024  # threads that decode; encoded images held at once
_IMAGE_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "PPM",
    "TIFF",
)  # of Pillow's, those that decode by themselves (EPS runs a program)
_IMAGE_LIMIT = 2**24  # pixels of one image: a small file can promise gigabytes
_GREY_MODES = ("1", "L", "LA")  # Pillow's modes without colour


@dataclass(frozen=True)
class Split:
    """A split of a source: labels as the source has them, and a reader from ids to uint8 [n, C, H, W]."""

    labels: np.ndarray
    ids: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """``names`` maps every label that may occur to its class's name."""

    names: Mapping[int, str]
    train: Split
    test: Split


# --- files ----------------------------------------------------------------------------------------


def expected_files(spec: DatasetSpec, data: Path | None) -> list[Path]:
    """The files that make up the source, in a fixed order, whether or not they are there."""
    if spec.source == "digits":
        return []
    folder = Path(spec.folder or "").expanduser()
    if data is None and not folder.is_absolute():
        belongs = ", ".join(_FILES.get(spec.source, (f"{folder}/train.parquet", f"{folder}/test.parquet")))
        raise HarnessError(
            f"{spec.label}: expected a data folder with {belongs}; --data or HARNESS_DATA sets it"
        )
    folder = (data or Path()) / folder
    if spec.source != "parquet":
        return [folder / name for name in _FILES[spec.source]]
    train, test, validation = (_shards(folder, split) for split in ("train", "test", "validation"))
    return (train or [folder / "train.parquet"]) + (test or validation or [folder / "test.parquet"])


def _shards(folder: Path, split: str) -> list[Path]:
    """``split.parquet``, else all ``split-*.parquet`` by name."""
    whole = folder / f"{split}.parquet"
    shards = [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.parquet"))
    total = re.search(r"-of-(\d+)", shards[0].name) if shards else None
    if total and int(total[1]) != len(shards):
        raise HarnessError(
            f"{folder}: expected {int(total[1])} files {split}-*.parquet, as their names say, got {len(shards)}"
        )
    return shards


def existing_files(spec: DatasetSpec, data: Path | None, why: str = "") -> list[Path]:
    """The source's files; raises HarnessError unless all are there."""
    files = expected_files(spec, data)
    missing = [path for path in files if not path.is_file()]
    if missing:
        shards = " (or shards train-*.parquet, test-*.parquet)" if spec.source == "parquet" else ""
        raise HarnessError(
            f"{spec.label}: expected {some(missing)}{shards}; --data or HARNESS_DATA sets the data folder{why}"
        )
    return files


def download(spec: DatasetSpec, data: Path | None) -> str:
    """Try to fetch the source into ``data``; returns words on why that could not be, or nothing."""
    if spec.source == "parquet" or data is None:
        return ""
    if not data.is_dir() or not os.access(data, os.W_OK):
        return f". Not downloaded: {data} is not a folder that can be written to"
    try:
        if spec.source == "tinyimagenet":
            _download_tinyimagenet(data / f"{_TINY}.zip")
        else:
            _download_torchvision(_TORCHVISION[spec.source], data)
    except Exception as error:  # network, mirror, archive, disk: whatever stopped it, the user reads it
        return f". The download failed: {type(error).__name__}: {error}"
    return ""


def _download_torchvision(name: str, data: Path) -> None:
    """torchvision's download, which checks MD5s and also unpacks archives that lie there already."""
    from torchvision import datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(
        _TORCHVISION_TIMEOUT_S
    )  # torchvision sets none: a silent mirror would hang for ever
    try:
        getattr(datasets, name)(data, download=True)
    finally:
        socket.setdefaulttimeout(before)


def _download_tinyimagenet(path: Path) -> None:
    """Fetch the official zip; ``path`` appears only once it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(_TINY_URL, timeout=_TINY_TIMEOUT_S) as reply, part.open("wb") as file:
            while block := reply.read(2**20):
                file.write(block)
        if not is_official_tinyimagenet(part):
            raise HarnessError(
                f"{_TINY_URL} gave {part.stat().st_size} bytes that are not the official file (MD5 {_TINY_MD5})"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_official_tinyimagenet(path: Path) -> bool:
    """Whether ``path`` is the official ``tiny-imagenet-200.zip``, by size and MD5; a cut copy can be used, but is not it."""
    if path.stat().st_size != _TINY_BYTES:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == _TINY_MD5


# --- labels and pixels ----------------------------------------------------------------------------


def open_source(spec: DatasetSpec, files: list[Path]) -> Source:
    """The source in its existing files. Raises HarnessError, now or when pixels are read, for files that are broken."""
    if spec.source == "digits":
        return _digits()
    if spec.source == "cifar10":
        return _cifar10(files[0].parents[1])
    if spec.source == "tinyimagenet":
        return _tinyimagenet(files[0])
    if spec.source == "parquet":
        return _parquet(files)
    names = _FASHION if spec.source == "fashion_mnist" else "0123456789"
    return Source(dict(enumerate(names)), _mnist(*files[:2]), _mnist(*files[2:]))


def _in_memory(pixels: np.ndarray, labels: np.ndarray) -> Split:
    """A split whose pixels are read already; they are copied only where some are left out."""
    return Split(
        labels.astype(np.int64),
        np.arange(len(labels)),
        lambda ids: pixels if len(ids) == len(pixels) else pixels[ids],
    )


def digits_arrays() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: uint8 [1797, 8, 8], 0..16, and their labels, int64 [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


def _digits() -> Source:
    """80 % train, 20 % test, stratified; ids are positions in scikit-learn's array, so no id is in both."""
    values, labels = digits_arrays()
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)[:, None]
    test = stratified(
        labels, round(0.2 * len(labels)), np.random.Generator(np.random.PCG64(_DIGITS_SPLIT_SEED))
    )
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Source(
        dict(enumerate("0123456789")),
        *(Split(labels[ids], ids, lambda kept: pixels[kept]) for ids in (train, test)),
    )


def _mnist(images: Path, labels: Path) -> Split:
    pixels, targets = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(targets):
        raise HarnessError(
            f"{labels}: expected a label for each of the {len(pixels)} images of {images.name}, got {len(targets)}"
        )
    return _in_memory(pixels[:, None], targets)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """MNIST's idx format: bytes 0, 0, 8 (uint8), number of dimensions; their lengths, big-endian 32 bit; the values."""
    with naming(path):
        raw = np.fromfile(path, np.uint8)
    offset = 4 + 4 * dimensions
    if len(raw) < offset or raw[:4].tolist() != [0, 0, 8, dimensions]:
        raise HarnessError(
            f"{path}: expected an idx file of {dimensions}-d bytes, got one that begins {raw[:4].tobytes()!r}"
        )
    shape = raw[4:offset].view(">u4").tolist()
    if len(raw) != offset + math.prod(shape):
        raise HarnessError(
            f"{path}: truncated or corrupt: its header promises {offset + math.prod(shape)} bytes, it has {len(raw)}"
        )
    return raw[offset:].reshape(shape)


def _cifar10(root: Path) -> Source:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    try:
        # The batches are pickles, which can run code: safe only because torchvision compares every
        # MD5 with the official one before it unpickles anything.
        sets = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        official = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
        files = [(root / CIFAR10.base_folder / name, md5) for name, md5 in official]
        broken = [path for path, md5 in files if not check_integrity(path, md5)]
        raise HarnessError(
            f"{some(broken)}: truncated or corrupt: not the official MD5; remove to download again ({error})"
        ) from error
    # torchvision turned [N, 3, 32, 32] to NHWC by a view; turning it back copies nothing.
    return Source(
        dict(enumerate(sets[0].classes)),
        *(_in_memory(s.data.transpose(0, 3, 1, 2), np.asarray(s.targets)) for s in sets),
    )


def _tinyimagenet(path: Path) -> Source:
    """Read from the zip, never unpacked. Ids: positions in the order of the members' names."""
    if path.stat().st_size == _TINY_BYTES and not is_official_tinyimagenet(path):
        raise HarnessError(f"{path}: corrupt: it has the official file's size, but not its MD5 {_TINY_MD5}")
    with naming(path), _zip(path) as archive:
        members = sorted(archive.namelist())
        annotations = archive.read(f"{_TINY}/val/val_annotations.txt").decode().splitlines()
        words = (
            archive.read(f"{_TINY}/words.txt").decode().splitlines()
            if f"{_TINY}/words.txt" in members
            else []
        )
    wnids = {
        name: name.split("/")[2]
        for name in members
        if re.fullmatch(rf"{_TINY}/train/[^/]+/images/[^/]+\.JPEG", name)
    }
    images = [name for name in members if re.fullmatch(rf"{_TINY}/val/images/[^/]+\.JPEG", name)]
    annotated = {
        f"{_TINY}/val/images/{row[0]}": row[1]
        for row in (line.split("\t") for line in annotations)
        if len(row) > 1
    }
    unmatched = sorted(annotated.keys() ^ set(images))
    if unmatched:
        raise HarnessError(
            f"{path}: expected val/images and val_annotations.txt to have the same images, but not so {some(unmatched)}"
        )
    label = {wnid: number for number, wnid in enumerate(sorted({*wnids.values(), *annotated.values()}))}
    named = dict(line.split("\t", 1) for line in words if "\t" in line)

    def split(names: list[str], wnid: Mapping[str, str]) -> Split:
        labels = np.array([label[wnid[name]] for name in names], np.int64)
        return Split(
            labels,
            np.arange(len(names)),
            lambda ids: _decode(_members(path, [names[i] for i in ids]), len(ids), "RGB"),
        )

    return Source(
        {number: named.get(wnid, wnid) for wnid, number in label.items()},
        split(list(wnids), wnids),
        split(images, annotated),
    )


def _zip(path: Path) -> zipfile.ZipFile:
    """Open a zip whose members are files inside their folder, each there once, and not too large."""
    archive = zipfile.ZipFile(path)
    members = archive.infolist()
    for member in members:
        inside = PureWindowsPath(
            member.filename
        )  # knows '/', '\' and drives, so it refuses what any system would follow
        if inside.anchor or ".." in inside.parts:
            raise HarnessError(f"{path}: refused: member '{member.filename}' leaves the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise HarnessError(f"{path}: refused: member '{member.filename}' is a link")
        if member.file_size > max(_ZIP_SMALL_BYTES, _ZIP_RATIO * member.compress_size):
            raise HarnessError(
                f"{path}: refused: member '{member.filename}' unpacks {member.compress_size} bytes to {member.file_size}"
            )
    if len(members) > len(set(archive.namelist())):
        twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
        raise HarnessError(f"{path}: refused: expected every member once, got two of {some(twice)}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _ZIP_LIMIT_BYTES:
        raise HarnessError(
            f"{path}: refused: expected at most {_ZIP_LIMIT_BYTES} bytes unpacked, got {unpacked}"
        )
    return archive


def _members(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    with _zip(path) as archive:
        for name in names:
            with naming(f"{path}: {name}"):
                encoded = archive.read(name)
            yield f"{path}: {name}", encoded


# --- Parquet --------------------------------------------------------------------------------------


def _parquet(files: list[Path]) -> Source:
    """A Hugging Face image classification data set; ids are rows, counted over all shards of a split."""
    train = [path for path in files if path.name.startswith("train")]
    test = files[len(train) :]
    # Over all images, so that no limit changes a pixel; in a set with colour the first image ends the search.
    colour = any(_image(place, encoded).mode not in _GREY_MODES for place, encoded in _rows(files))
    splits = [_parquet_split(paths, "RGB" if colour else "L") for paths in (train, test)]
    names, others = _class_names(train[0]), _class_names(test[0])
    if names and others and names != others:
        raise HarnessError(
            f"{test[0]}: expected the class names of {train[0].name}, got others: {some(others)}"
        )
    return Source(
        dict(enumerate(names)) if names else {label: str(label) for label in splits[0].labels.tolist()},
        *splits,
    )


def _parquet_split(paths: list[Path], mode: str) -> Split:
    labels = np.concatenate([_parquet_labels(path) for path in paths])
    return Split(labels, np.arange(len(labels)), lambda ids: _decode(_rows(paths, ids), len(ids), mode))


def _parquet_labels(path: Path) -> np.ndarray:
    file, _, column = _parquet_file(path)
    with naming(path):
        labels = file.read(columns=[column]).column(0)
    if labels.null_count:
        raise HarnessError(f"{path}: expected a label in every row, got none in {labels.null_count}")
    return cast(np.ndarray, labels.to_numpy().astype(np.int64))


def _parquet_file(path: Path) -> tuple[Any, str, str]:
    """The open file, its image column and its label column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with naming(path):
        file = pq.ParquetFile(path)

    def is_image(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and is_image(kind.field("bytes").type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def column(what: str, fits: Callable[[pa.DataType], bool], usual: tuple[str, ...]) -> str:
        fitting = [field.name for field in file.schema_arrow if fits(field.type)]
        known = [name for name in usual if name in fitting]
        if not known and len(fitting) != 1:
            came = ", ".join(f"{field.name}: {field.type}" for field in file.schema_arrow)
            raise HarnessError(
                f"{path}: expected one {what} column ({' or '.join(usual)}, or the only one), got {came}"
            )
        return (known or fitting)[0]

    return (
        file,
        column("image", is_image, ("image", "img")),
        column("integer", pa.types.is_integer, ("label", "labels", "fine_label")),
    )


def _class_names(path: Path) -> list[str] | None:
    """Class names from the schema's metadata, where the Hugging Face library wrote them."""
    file, _, column = _parquet_file(path)
    try:
        return [
            str(name)
            for name in json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"][column][
                "names"
            ]
        ]
    except (KeyError, TypeError, ValueError):
        return None  # written by something else, or labels that are plain numbers


def _rows(paths: list[Path], ids: np.ndarray | None = None) -> Iterator[tuple[str, bytes | None]]:
    """The encoded images of the rows ``ids`` (ascending, counted over all files; None: of every row), each with its place."""
    start = 0  # the block's first row, over all files
    for path in paths:
        first = start
        file, column, _ = _parquet_file(path)
        with naming(path):
            for block in file.iter_batches(_BLOCK, columns=[column]):
                end = start + len(block)
                wanted = (
                    range(start, end)
                    if ids is None
                    else ids[np.searchsorted(ids, start) : np.searchsorted(ids, end)].tolist()
                )
                for row in wanted:
                    value = block.column(0)[row - start].as_py()
                    yield f"{path}, row {row - first}", value["bytes"] if isinstance(value, dict) else value
                start = end


# --- encoded images -------------------------------------------------------------------------------


def _decode(images: Iterator[tuple[str, bytes | None]], count: int, mode: str) -> np.ndarray:
    """uint8 [count, C, H, W] from encoded images, each with its place; ``mode`` is 'L' (C = 1) or 'RGB' (C = 3)."""
    pixels = np.empty(0, np.uint8)
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(images, _BLOCK)):
            for (place, _), image in zip(
                block, pool.map(lambda image: _pixels(mode, *image), block), strict=True
            ):
                if not done:
                    pixels = np.empty((count, *image.shape), np.uint8)
                if image.shape != pixels.shape[1:]:
                    raise HarnessError(
                        f"{place}: expected images of one size, {size(pixels)}, got {size(image)}"
                    )
                pixels[done] = image
                done += 1
    return pixels


def _pixels(mode: str, place: str, encoded: bytes | None) -> np.ndarray:
    """uint8 [C, H, W] of one encoded image."""
    image = _image(place, encoded)
    with naming(place):
        array = np.asarray(image.convert(mode))
    return array[None] if mode == "L" else array.transpose(2, 0, 1)


def _image(place: str, encoded: bytes | None) -> Any:
    """A Pillow image, its header read."""
    from PIL import Image

    if encoded is None:
        raise HarnessError(f"{place}: expected the image's bytes, got none (a path alone is not followed)")
    with naming(place):
        image = Image.open(io.BytesIO(encoded), formats=_IMAGE_FORMATS)
    if image.width * image.height > _IMAGE_LIMIT:
        raise HarnessError(
            f"{place}: refused: expected at most {_IMAGE_LIMIT} pixels, got {image.width} x {image.height}"
        )
    if image.mode[0] in "IF":  # convert() would clip such values at 255
        raise HarnessError(f"{place}: expected 8 bits a channel, got Pillow's mode '{image.mode}'")
    return image


# --- small things that `datasets` uses as well ----------------------------------------------------


def stratified(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` positions in ``labels``, ascending: each class's share by largest remainder, its images at random."""
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    share, remainder = np.divmod(sizes * count, len(labels))  # whole numbers: no rounding decides a tie
    share[np.argsort(-remainder, kind="stable")[: count - share.sum()]] += 1
    order = np.lexsort((random.random(len(labels)), inverse))  # by class, shuffled within
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(share, sizes)])


def size(pixels: np.ndarray) -> str:
    """Of an image, or of each of many, for a message."""
    channels, height, width = pixels.shape[-3:]
    return f"{width}x{height} with {channels} channel(s)"


def some(things: Iterable[Any]) -> str:
    """The first few, for a message."""
    words = [str(thing) for thing in things]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Name the broken thing. Readers of foreign bytes raise errors of every kind, so every kind is caught."""
    try:
        yield
    except (HarnessError, MemoryError):
        raise
    except Exception as error:
        raise HarnessError(
            f"{place}: cannot be read; truncated or corrupt? {type(error).__name__}: {error}"
        ) from error
