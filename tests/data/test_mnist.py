"""MNIST's files as they are published, packed: read as they are, refused where they are broken."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sources import assert_sound, idx, same, spec, write_mnist

from harness.data import mnist
from harness.data.datasets import fingerprint, load, prepare
from harness.errors import HarnessError

IMAGES = "train-images-idx3-ubyte"
LABELS = ([0, 1, 2, 1], [2, 0])


def gz(content: bytes) -> bytes:
    """Packed without the time, so that a test that is named by it has one name in all processes."""
    return gzip.compress(content, mtime=0)


def pack(data: Path, level: int = 9, name: str = "MNIST") -> Path:
    """Every file becomes its ``.gz``."""
    for path in sorted((data / name / "raw").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), level))
        path.unlink()
    return data


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return pack(write_mnist(tmp_path / "packed", LABELS))


def refused(data: Path, content: bytes, words: str, file: str = IMAGES) -> None:
    (data / "MNIST/raw" / f"{file}.gz").write_bytes(content)
    with pytest.raises(HarnessError, match=words):
        load(spec("mnist"), data)


@pytest.mark.parametrize(("source", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_packed_files_are_read_as_they_are(tmp_path: Path, source: str, name: str) -> None:
    unpacked = write_mnist(tmp_path / "unpacked", LABELS, name)
    packed = pack(write_mnist(tmp_path / "packed", LABELS, name), name=name)
    prepare(spec(source), packed)
    dataset, expected = load(spec(source), packed), load(spec(source), unpacked)
    assert_sound(dataset)
    assert dataset.classes == expected.classes
    assert same(dataset.train, expected.train) and same(dataset.test, expected.test)
    assert dataset.train.pixels.flags.writeable
    assert sorted(path.suffix for path in (packed / name / "raw").iterdir()) == [".gz"] * 4


def test_one_file_may_be_packed_and_an_unpacked_one_comes_first(packed: Path) -> None:
    (packed / "MNIST/raw" / f"{IMAGES}.gz").unlink()
    pixels = np.full((4, 5, 5), 9)
    (packed / "MNIST/raw" / IMAGES).write_bytes(idx(pixels))
    assert (load(spec("mnist"), packed).train.pixels == 9).all()
    (packed / "MNIST/raw" / f"{IMAGES}.gz").write_bytes(b"never read")
    assert (load(spec("mnist"), packed).train.pixels == 9).all()


def test_a_fingerprint_is_of_the_bytes_that_are_there(tmp_path: Path, packed: Path) -> None:
    again = pack(write_mnist(tmp_path / "again", LABELS))
    fast = pack(write_mnist(tmp_path / "fast", LABELS), level=1)
    unpacked = write_mnist(tmp_path / "unpacked", LABELS)
    prints = [fingerprint(spec("mnist"), data) for data in (packed, again, fast, unpacked)]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_what_is_missing_is_named_unpacked(tmp_path: Path, packed: Path) -> None:
    (packed / "MNIST/raw" / f"{IMAGES}.gz").unlink()
    for call in (load, fingerprint):
        with pytest.raises(HarnessError, match=rf"expected .*/{IMAGES} \(or \.gz files of them\); --data"):
            call(spec("mnist"), packed)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(packed: Path, share: float) -> None:
    path = packed / "MNIST/raw" / f"{IMAGES}.gz"
    whole = path.read_bytes()
    refused(
        packed,
        whole[: int(share * len(whole))],
        rf"{IMAGES}\.gz: (cannot be read; truncated|expected an idx)",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "cannot be read; truncated or corrupt.*Not a gzipped file"),
        (gz(b"no idx file"), "expected an idx file of 3-d bytes, got one that begins b'no i'"),
        (gz(idx(np.zeros((4, 5)))), "expected an idx file of 3-d bytes"),
        (gz(idx(np.zeros((4, 5, 5)))[:-1]), "promises 116 bytes, it has 115"),
        (
            gz(idx(np.zeros((4, 5, 5))) + b"x"),
            "it unpacks to more than the 116 bytes of its header",
        ),
        (gz(idx(np.zeros((3, 5, 5)))), "expected a label for each of the 3 images"),
    ],
)
def test_a_broken_file(packed: Path, content: bytes, words: str) -> None:
    refused(packed, content, words)


def test_a_changed_byte_fails_the_checksum(packed: Path) -> None:
    content = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (4, 5, 5))), 0)
    changed = bytearray(content)
    changed[-20] ^= 255
    refused(packed, bytes(changed), "cannot be read.*CRC")


def test_a_bomb_behind_an_honest_header_is_not_unpacked(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header promises 116 bytes; 200 MB of zeros follow."""
    unpacked = count_unpacked(monkeypatch)
    bomb = gzip.compress(idx(np.zeros((4, 5, 5))) + bytes(200_000_000))
    refused(packed, bomb, "refused: it unpacks to more than the 116 bytes of its header")
    assert 116 <= sum(unpacked) <= 117


@pytest.mark.parametrize("shape", [(2**31, 2**31, 2**31), (200_000, 32, 32)])
def test_a_header_that_promises_too_much(
    packed: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    unpacked = count_unpacked(monkeypatch)
    header = idx(np.zeros((0, 0, 0)))[:4] + np.array(shape, ">u4").tobytes()
    bomb = gzip.compress(header + bytes(min(int(np.prod(shape, dtype=object)), 204_800_000)))
    refused(packed, bomb, rf"refused: its header promises \d+ bytes, packed into {len(bomb)}")
    assert sum(unpacked) == 16


def count_unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every read of packed files of images: how many bytes came."""
    lengths: list[int] = []

    class Counting(gzip.GzipFile):
        def read(self, *arguments: Any) -> bytes:
            content = super().read(*arguments)
            if IMAGES in os.path.basename(str(self.name)):
                lengths.append(len(content))
            return content

    monkeypatch.setattr(mnist.gzip, "open", Counting)
    return lengths
