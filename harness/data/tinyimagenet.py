"""Tiny ImageNet (Le & Yang 2015): 64 x 64 colour images of 200 classes, read from their zip, never unpacked.

The official test images have no labels, so the validation images are the test split.
"""

import hashlib
import os
import re
import stat
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath

import numpy as np

from harness.data.encoded import decode
from harness.data.source import (
    UNPACKED_LIMIT_BYTES,
    Extent,
    Source,
    Split,
    Splits,
    first_few,
    is_bomb,
    reading,
)
from harness.errors import HarnessError

_ROOT = "tiny-imagenet-200"
_FILE = f"{_ROOT}.zip"
_URL = f"http://cs231n.stanford.edu/{_FILE}"
_BYTES, _MD5 = 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"
_TIMEOUT_S = 20


def is_official(path: Path) -> bool:
    """Whether ``path`` is the official zip, by size and MD5; a cut copy can be used, but is not it."""
    if path.stat().st_size != _BYTES:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == _MD5


def _fetch(data: Path) -> None:
    """Download the official zip; it appears under its name only once it is whole."""
    path = data / _FILE
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(_URL, timeout=_TIMEOUT_S) as reply, part.open("wb") as file:
            while block := reply.read(2**20):
                file.write(block)
        if not is_official(part):
            raise HarnessError(
                f"{_URL} gave {part.stat().st_size} bytes that are not the official file (MD5 {_MD5})"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# --- labels and pixels ----------------------------------------------------------------------------


def _open(files: list[Path]) -> Splits:
    """Ids are positions in the order of the members' names. Labels number the WordNet ids in their order."""
    (path,) = files
    if path.stat().st_size == _BYTES and not is_official(path):
        raise HarnessError(f"{path}: corrupt: it has the official file's size, but not its MD5 {_MD5}")
    with reading(path), _open_zip(path) as archive:
        members = sorted(archive.namelist())
        annotations = archive.read(f"{_ROOT}/val/val_annotations.txt").decode()
        words = archive.read(f"{_ROOT}/words.txt").decode() if f"{_ROOT}/words.txt" in members else ""
    train = {name: name.split("/")[2] for name in members if _is_image(name, "train/[^/]+")}
    test = _annotated(path, [name for name in members if _is_image(name, "val")], annotations)
    wnids = sorted({*train.values(), *test.values()})
    titles = dict(line.split("\t", 1) for line in words.splitlines() if "\t" in line)
    class_names = {label: titles.get(wnid, wnid) for label, wnid in enumerate(wnids)}
    return Splits(class_names, _split(path, train, wnids), _split(path, test, wnids))


def _is_image(name: str, folder: str) -> bool:
    return re.fullmatch(rf"{_ROOT}/{folder}/images/[^/]+\.JPEG", name) is not None


def _annotated(path: Path, images: list[str], annotations: str) -> dict[str, str]:
    """The WordNet id of each validation image, by member; a line of ``annotations`` is image, id, box."""
    rows = [line.split("\t") for line in annotations.splitlines()]
    wnids = {f"{_ROOT}/val/images/{row[0]}": row[1] for row in rows if len(row) > 1}
    unmatched = sorted(wnids.keys() ^ set(images))
    if unmatched:
        raise HarnessError(
            f"{path}: expected val/images and val_annotations.txt to have the same images,"
            f" but not so {first_few(unmatched)}"
        )
    return {name: wnids[name] for name in images}


def _split(path: Path, wnid_of: Mapping[str, str], wnids: list[str]) -> Split:
    """The members ``wnid_of`` in their order, each with its WordNet id."""
    names = list(wnid_of)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels = np.array([label_of[wnid] for wnid in wnid_of.values()], np.int64)

    def read(ids: np.ndarray) -> np.ndarray:
        return decode(_members(path, [names[i] for i in ids]), len(ids), "RGB")

    return Split(labels, np.arange(len(names)), read)


# --- the zip --------------------------------------------------------------------------------------


def _members(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """The content of each member, with its place for a message."""
    with _open_zip(path) as archive:
        for name in names:
            place = f"{path}: {name}"
            with reading(place):
                content = archive.read(name)
            yield place, content


def _open_zip(path: Path) -> zipfile.ZipFile:
    """A zip whose members are files inside their folder, each there once, and not too large."""
    archive = zipfile.ZipFile(path)
    members = archive.infolist()
    for member in members:
        harm = _harm(member)
        if harm:
            raise HarnessError(f"{path}: refused: member '{member.filename}' {harm}")
    names = Counter(archive.namelist())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise HarnessError(f"{path}: refused: expected every member once, got two of {first_few(twice)}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > UNPACKED_LIMIT_BYTES:
        raise HarnessError(
            f"{path}: refused: expected at most {UNPACKED_LIMIT_BYTES} bytes unpacked, got {unpacked}"
        )
    return archive


def _harm(member: zipfile.ZipInfo) -> str:
    """What a member would do to who unpacks it, in words, or nothing."""
    # Windows' paths know '/', '\' and drives, so this refuses what any system would follow.
    inside = PureWindowsPath(member.filename)
    if inside.anchor or ".." in inside.parts:
        return "leaves the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if is_bomb(member.compress_size, member.file_size):
        return f"unpacks {member.compress_size} bytes to {member.file_size}"
    return ""


TINYIMAGENET = Source(
    files=(_FILE,),
    open=_open,
    fetch=_fetch,
    extent=Extent(train=100_000, test=10_000, shape=(3, 64, 64), classes=200),
    paper_dataset=True,
)
