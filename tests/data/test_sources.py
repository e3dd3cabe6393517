"""Every source on tiny files, every broken file with its message; real files below HARNESS_DATA."""

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_sources import (
    assert_sound,
    encoded,
    idx,
    parquet,
    same,
    spec,
    write_mnist,
    write_parquet,
    write_zip,
)

from harness.data import encoded as encoded_images
from harness.data import parquet as parquet_files
from harness.data import tinyimagenet
from harness.data.datasets import fingerprint, image_shape, load, prepare
from harness.data.source import stratified
from harness.data.tinyimagenet import is_official
from harness.errors import HarnessError

REAL = os.environ.get("HARNESS_DATA", "")
real = pytest.mark.skipif(not REAL, reason="HARNESS_DATA does not name a folder with real data")

# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_read_as_scikit_learn_reads_them(monkeypatch, tmp_path) -> None:
    """From its file, and, where that lies elsewhere, by its function: equal bytes."""
    from harness.data import digits

    of_file = digits.arrays()
    monkeypatch.setattr(digits, "_file", lambda: tmp_path / "none")
    of_function = digits.arrays()
    for one, other in zip(of_file, of_function, strict=True):
        assert one.dtype == other.dtype and one.flags.c_contiguous
        assert np.array_equal(one, other) and one.tobytes() == other.tobytes()


def test_digits_are_scaled_exactly_and_split_the_same_for_every_seed() -> None:
    from sklearn.datasets import load_digits

    dataset, other = load(spec("digits"), None), load(spec("digits", seed=1), None)
    assert_sound(dataset)
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.pixels.shape == (1438, 1, 8, 8) and dataset.test.pixels.shape == (359, 1, 8, 8)
    assert same(dataset.train, other.train) and same(dataset.test, other.test)
    assert np.array_equal(np.sort(np.concatenate([dataset.train.ids, dataset.test.ids])), np.arange(1797))
    source = load_digits()
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.labels, source.target[split.ids])
        assert np.array_equal(split.pixels[:, 0], np.round(source.images[split.ids] * 255 / 16))
    shares = np.bincount(dataset.test.labels) / np.bincount(source.target)
    assert np.abs(shares - 0.2).max() < 0.01


def test_largest_remainder_is_exact() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    kept = stratified(labels, 4, np.random.default_rng(0))  # shares 2.0, 1.2, 0.8
    assert np.bincount(labels[kept]).tolist() == [2, 1, 1]
    for count in range(11):
        kept = stratified(labels, count, np.random.default_rng(count))
        assert len(np.unique(kept)) == count and (np.diff(kept) > 0).all()


# --- MNIST and CIFAR-10 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "first"), [("mnist", "MNIST", "0"), ("fashion_mnist", "FashionMNIST", "T-shirt/top")]
)
def test_idx_files(tmp_path: Path, source: str, name: str, first: str) -> None:
    data = write_mnist(tmp_path, ([0, 1, 2, 1], [2, 0]), name)
    prepare(spec(source), data)
    dataset = load(spec(source), data)
    assert_sound(dataset)
    assert len(dataset.classes) == 3 and dataset.classes[0] == first
    assert dataset.train.pixels.shape == (4, 1, 5, 5)
    assert dataset.train.pixels[:, 0, 0, 0].tolist() == dataset.train.ids.tolist() == [0, 1, 2, 3]
    assert dataset.train.labels.tolist() == [0, 1, 2, 1] and dataset.test.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda raw: raw[:-1],
            r"train-images-idx3-ubyte: truncated or corrupt: its header promises 116 bytes, it has 115",
        ),
        (lambda raw: raw + b"x", "promises 116 bytes, it has 117"),
        (lambda raw: raw[:7], "expected an idx file of 3-d bytes"),
        (lambda raw: b"", "expected an idx file of 3-d bytes"),
        (lambda raw: b"\x1f\x8b" + raw[2:], "expected an idx file of 3-d bytes"),
        (
            lambda raw: idx(np.zeros((3, 5, 5))),
            "train-labels-idx1-ubyte: expected a label for each of the 3 images",
        ),
    ],
)
def test_broken_idx_files_are_named(tmp_path: Path, change: Any, words: str) -> None:
    write_mnist(tmp_path, ([0, 1, 2, 1], [2, 0]))
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(HarnessError, match=words):
        load(spec("mnist"), tmp_path)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six batches of five images; torchvision is told that these are the official ones."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    random = np.random.default_rng(0)
    batches = []
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        data = random.integers(0, 256, (5, 3072), np.uint8)
        batches.append([name, write(name, {"data": data, "labels": [0, 1, 2, 1, 0]})])
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": write("batches.meta", {"label_names": ["a", "b", "c"]}),
    }
    monkeypatch.setattr(CIFAR10, "train_list", batches[:5])
    monkeypatch.setattr(CIFAR10, "test_list", batches[5:])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path


def test_cifar10(cifar: Path) -> None:
    prepare(spec("cifar10"), cifar)
    dataset = load(spec("cifar10"), cifar)
    assert_sound(dataset)
    assert dataset.classes == ("a", "b", "c")
    assert dataset.train.pixels.shape == (25, 3, 32, 32) and dataset.test.pixels.shape == (5, 3, 32, 32)
    third = pickle.loads((cifar / "cifar-10-batches-py/data_batch_3").read_bytes())["data"]
    assert np.array_equal(dataset.train.pixels[10:15].reshape(5, -1), third)


def test_a_changed_batch_is_never_unpickled(cifar: Path) -> None:
    marker = cifar / "unpickled"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (cifar / "cifar-10-batches-py/data_batch_2").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(HarnessError, match="data_batch_2: truncated or corrupt: not the official MD5"):
        load(spec("cifar10"), cifar)
    assert not marker.exists()


# --- Tiny ImageNet --------------------------------------------------------------------------------


def test_tinyimagenet(tmp_path: Path) -> None:
    path = write_zip(tmp_path)
    prepare(spec("tinyimagenet"), tmp_path)
    dataset = load(spec("tinyimagenet"), tmp_path)
    assert_sound(dataset)
    assert dataset.classes == ("crane, wading bird", "dog", "n03")
    assert dataset.train.pixels.shape == (12, 3, 4, 4)
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [2, 2, 0, 0, 1, 1]
    assert np.abs(dataset.train.pixels[8].astype(int) - 90).max() <= 2  # the grey one
    assert np.abs(dataset.train.pixels[6, :, 0, 0].astype(int) - [20, 40, 50]).max() <= 4
    assert not is_official(path)
    part = load(spec("tinyimagenet", classes=2, train_limit=3, seed=1), tmp_path)
    assert len(part.classes) == 2 and len(part.train.ids) == 3
    assert np.array_equal(part.train.pixels, dataset.train.pixels[part.train.ids])


def test_a_copy_may_have_smaller_images(tmp_path: Path) -> None:
    tiny = spec("tinyimagenet")
    assert image_shape(tiny, None) is None
    assert image_shape(tiny, tmp_path) is None
    write_zip(tmp_path)
    assert image_shape(tiny, tmp_path) == (3, 4, 4)
    assert image_shape(spec("digits"), None) == (1, 8, 8)


def test_official_by_size_and_md5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path)
    monkeypatch.setattr(tinyimagenet, "_BYTES", path.stat().st_size)
    assert not is_official(path)
    monkeypatch.setattr(tinyimagenet, "_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert is_official(path)


TINY = "tiny-imagenet-200"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {f"{TINY}/train/n02/images/n02_1.JPEG": b"no image"},
            r"n02_1\.JPEG: cannot be read; truncated or corrupt\?",
        ),
        (
            {f"{TINY}/train/n02/images/n02_1.JPEG": encoded((1, 2, 3), kind="JPEG")[:-60]},
            r"n02_1\.JPEG: cannot be read",
        ),
        (
            {f"{TINY}/train/n02/images/n02_1.JPEG": encoded((1, 2, 3), (4, 5), kind="JPEG")},
            r"n02_1\.JPEG: expected images of one size",
        ),
        (
            {f"{TINY}/val/images/val_9.JPEG": encoded((1, 2, 3), kind="JPEG")},
            r"the same images, but not so .*val_9\.JPEG",
        ),
        (
            {f"{TINY}/val/val_annotations.txt": b"val_0.JPEG\tn03\n"},
            r"the same images, but not so .*val_1\.JPEG",
        ),
        (
            {f"{TINY}/val/val_annotations.txt": "".join(f"val_{i}.JPEG\tn77\n" for i in range(6)).encode()},
            "no training image has: 3",
        ),
    ],
)
def test_broken_members_are_named(tmp_path: Path, extra: dict[str, bytes], words: str) -> None:
    write_zip(tmp_path, extra)
    with pytest.raises(HarnessError, match=words):
        load(spec("tinyimagenet"), tmp_path)


def test_an_official_zip_that_is_corrupt_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(bytes(1000))
    monkeypatch.setattr(tinyimagenet, "_BYTES", 1000)
    with pytest.raises(
        HarnessError, match="corrupt: it has the official file's size, but not its MD5 90528d7c"
    ):
        load(spec("tinyimagenet"), tmp_path)


def test_a_broken_zip_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(
        HarnessError, match=r"tiny-imagenet-200\.zip: cannot be read; truncated or corrupt\? BadZipFile"
    ):
        load(spec("tinyimagenet"), tmp_path)
    where = (
        whole.index(encoded((20, 40, 50), kind="JPEG")) + 30
    )  # n02_2 of write_zip; the archive's CRC gives it away
    path.write_bytes(whole[:where] + bytes([whole[where] ^ 255]) + whole[where + 1 :])
    with pytest.raises(HarnessError, match=r"n02_2\.JPEG: cannot be read.*CRC"):
        load(spec("tinyimagenet"), tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", b"")
    with pytest.raises(HarnessError, match="val_annotations.txt"):
        load(spec("tinyimagenet"), tmp_path)


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    which = parquet(tmp_path, [2, 0, 1, 0], [1, 2], names=["ant", "bee", "cat"])
    prepare(which, tmp_path)
    dataset = load(which, tmp_path)
    assert_sound(dataset)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.train.pixels[:, :, 1, 2].tolist() == [[0, 2, 7], [1, 0, 7], [2, 1, 7], [3, 0, 7]]
    assert dataset.train.labels.tolist() == [2, 0, 1, 0] and dataset.test.labels.tolist() == [1, 2]


def test_parquet_by_absolute_folder_needs_no_data_folder(tmp_path: Path) -> None:
    parquet(tmp_path, [0, 1], [0, 1])
    which = spec("parquet", folder=str(tmp_path / "set"))
    prepare(which, None)
    assert same(load(which, None).train, load(spec("parquet", folder="set"), tmp_path).train)


def test_labels_are_remapped_and_named_by_themselves(tmp_path: Path) -> None:
    dataset = load(parquet(tmp_path, [40, -3, 40, 7], [7, -3]), tmp_path)
    assert dataset.classes == ("-3", "7", "40")
    assert dataset.train.labels.tolist() == [2, 0, 2, 1] and dataset.test.labels.tolist() == [1, 0]


def test_shards_are_read_in_order_and_validation_stands_in_for_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (encoded_images, parquet_files):
        monkeypatch.setattr(module, "BLOCK", 3)
    labels = [0, 1, 1, 0, 0, 1, 0, 1, 1]
    images: list[bytes | None] = [encoded((i, 0, 0)) for i in range(len(labels))]
    for shard in (1, 0):
        rows = slice(5) if shard == 0 else slice(5, None)
        write_parquet(tmp_path / f"set/train-{shard:05}-of-00002.parquet", images[rows], labels[rows])
    write_parquet(tmp_path / "set/validation.parquet", images[:2], labels[:2])
    which = spec("parquet", folder="set")
    dataset = load(which, tmp_path)
    assert (
        dataset.train.pixels[:, 0, 0, 0].tolist() == list(range(9))
        and dataset.train.labels.tolist() == labels
    )
    part = load(spec("parquet", folder="set", train_limit=4), tmp_path).train
    assert len(part.ids) == 4 and part.pixels[:, 0, 0, 0].tolist() == part.ids.tolist()
    (tmp_path / "set/train-00000-of-00002.parquet").unlink()
    with pytest.raises(HarnessError, match=r"expected 2 files train-\*\.parquet, as their names say, got 1"):
        prepare(which, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_parquet_leaves_no_thread_of_arrows(tmp_path: Path) -> None:
    """One that holds memory of Python's when the program ends would abort it."""
    which = parquet(tmp_path, [0, 1] * 600, [0, 1])
    code = (
        "import os, sys, time, pathlib, pyarrow.parquet\n"
        "from harness.data.datasets import DatasetSpec, load\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before, end = threads(), time.monotonic() + 10\n"
        f"load(DatasetSpec(source='parquet', folder={which.folder!r}), pathlib.Path(sys.argv[1]))\n"
        "while threads() > before and time.monotonic() < end: time.sleep(0.01)\n"
        "sys.exit(threads() > before)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(arguments, cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize(("image", "label"), [("img", "labels"), ("photo", "fine_label"), ("photo", "kind")])
def test_columns_are_found(tmp_path: Path, image: str, label: str) -> None:
    for split in ("train", "test"):
        more = {"coarse_label": [5, 5]} if label == "fine_label" else {}
        columns = {
            "note": ["a", "b"],
            label: [0, 1],
            image: pa.array([encoded(9, mode="L"), encoded(200, mode="L")], pa.binary()),
            **more,
        }
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / f"set/{split}.parquet")
    dataset = load(spec("parquet", folder="set"), tmp_path)
    assert dataset.train.pixels.shape == (2, 1, 4, 4) and dataset.train.pixels[:, 0, 0, 0].tolist() == [
        9,
        200,
    ]
    assert dataset.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"a": [b"x"], "b": [b"y"], "label": [0]},
            "expected one image column .* got a: binary, b: binary, label: int64",
        ),
        ({"image": ["x.png"], "label": [0]}, "expected one image column .* got image: string"),
        (
            {"image": [b"x"], "label": ["cat"]},
            "expected one integer column .* got image: binary, label: string",
        ),
        ({"image": [b"x"], "one": [0], "two": [0]}, "expected one integer column"),
        (
            {"image": [b"x"], "label": pa.array([None], pa.int64())},
            "expected a label in every row, got none in 1",
        ),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    which = parquet(tmp_path, [0, 1], [0, 1])
    pq.write_table(pa.table(columns), tmp_path / "set/test.parquet")
    with pytest.raises(HarnessError, match=r"test\.parquet: " + words):
        load(which, tmp_path)


def test_one_colour_image_makes_all_rgb_whatever_is_kept(tmp_path: Path) -> None:
    grey: list[bytes | None] = [encoded(i, mode="L") for i in range(6)]
    which = parquet(tmp_path, [0, 1] * 3, [0, 1], images={"train": grey, "test": grey[:2]})
    assert load(which, tmp_path).train.pixels.shape == (6, 1, 4, 4)
    write_parquet(tmp_path / "set/test.parquet", [*grey[:2], encoded((1, 2, 3))], [0, 1, 1])
    for limit in (None, 2):
        assert load(spec("parquet", folder="set", test_limit=limit), tmp_path).train.pixels.shape == (
            6,
            3,
            4,
            4,
        )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"no image", "row 2: cannot be read"),
        (encoded((1, 2, 3), (40, 40))[:-40], "row 2: cannot be read"),
        (None, "row 2: expected the image's bytes, got none"),
        (encoded((1, 2, 3), (4, 5)), r"row 2: expected images of one size, 4x4 with 3 channel\(s\), got 4x5"),
        (encoded(5, mode="I;16"), "row 2: expected 8 bits a channel, got Pillow's mode 'I;16'"),
    ],
)
def test_a_broken_image_is_named_by_file_and_row(tmp_path: Path, bad: bytes | None, words: str) -> None:
    good = encoded((1, 2, 3))
    which = parquet(tmp_path, [0, 1, 1], [0, 1, 1], images={"train": [good] * 3, "test": [good, good, bad]})
    with pytest.raises(HarnessError, match=r"test\.parquet, " + words):
        load(which, tmp_path)


def test_unreadable_parquet_is_named(tmp_path: Path) -> None:
    which = parquet(tmp_path, [0, 1], [0, 1])
    path = tmp_path / "set/test.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HarnessError, match=r"test\.parquet: cannot be read; truncated or corrupt\? Arrow"):
        load(which, tmp_path)


def test_class_names_must_agree_and_suffice(tmp_path: Path) -> None:
    which = parquet(tmp_path, [0, 1], [0, 1], names=["ant", "bee"])
    write_parquet(tmp_path / "set/test.parquet", [encoded((1, 2, 3))], [0], names=["bee", "ant"])
    with pytest.raises(HarnessError, match="expected the class names of train.parquet, got others: bee, ant"):
        load(which, tmp_path)
    with pytest.raises(HarnessError, match="expected labels of the 2 named classes, got 2 in train"):
        load(parquet(tmp_path, [0, 1, 2], [0, 1], names=["ant", "bee"]), tmp_path)


# --- files and downloads --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("tinyimagenet", "tiny-imagenet-200.zip"),
        ("parquet", "set/train.parquet"),
    ],
)
def test_missing_files_are_named_and_so_is_the_setting(
    tmp_path: Path, source: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise urllib.request.URLError("the cable is cut")  # type: ignore[attr-defined]

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    which = spec(source, folder="set") if source == "parquet" else spec(source)
    for call in (prepare, fingerprint, load):
        for data in (tmp_path, None, tmp_path / "nowhere"):
            with pytest.raises(HarnessError) as caught:
                call(which, data)
            assert file in str(caught.value) and "--data or HARNESS_DATA" in str(caught.value)
            if call is prepare and source != "parquet" and data == tmp_path:
                assert "The download failed" in str(caught.value) and "the cable is cut" in str(caught.value)
    assert socket.getdefaulttimeout() is None
    assert not list(tmp_path.glob(".*.part"))


def test_a_read_only_folder_is_not_downloaded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(HarnessError, match="Not downloaded: .* is not a folder that can be written to"):
        prepare(spec("mnist"), tmp_path)


def test_tinyimagenet_is_downloaded_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    whole = write_zip(made).read_bytes()
    monkeypatch.setattr(tinyimagenet, "_BYTES", len(whole))
    monkeypatch.setattr(tinyimagenet, "_MD5", hashlib.md5(whole).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(whole[:100]))
    with pytest.raises(HarnessError, match="gave 100 bytes that are not the official file"):
        prepare(spec("tinyimagenet"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(whole))
    prepare(spec("tinyimagenet"), tmp_path)
    assert len(load(spec("tinyimagenet"), tmp_path).train.ids) == 12


# --- real files -----------------------------------------------------------------------------------


@real
def test_real_mnist() -> None:
    dataset = load(spec("mnist"), Path(REAL))
    assert_sound(dataset)
    assert dataset.train.pixels.shape == (60000, 1, 28, 28) and dataset.test.pixels.shape == (
        10000,
        1,
        28,
        28,
    )
    assert np.bincount(dataset.train.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert np.bincount(dataset.test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    part = load(spec("mnist", train_limit=1000), Path(REAL))
    assert np.array_equal(part.train.pixels, dataset.train.pixels[part.train.ids])


@real
@pytest.mark.skipif(not Path(REAL, "cifar10-jpeg").is_dir(), reason="no cifar10-jpeg in the data folder")
def test_real_parquet() -> None:
    dataset = load(spec("parquet", folder="cifar10-jpeg", train_limit=300, test_limit=100), Path(REAL))
    assert_sound(dataset)
    assert dataset.classes[:3] == ("airplane", "automobile", "bird") and len(dataset.classes) == 10
    assert dataset.train.pixels.shape == (300, 3, 32, 32) and dataset.test.pixels.shape == (100, 3, 32, 32)
    assert np.bincount(dataset.train.labels).tolist() == [30] * 10


@real
@pytest.mark.skipif(
    not Path(REAL, "tiny-imagenet-200.zip").is_file(), reason="no tiny-imagenet-200.zip in the data folder"
)
def test_real_tinyimagenet() -> None:
    dataset = load(spec("tinyimagenet", classes=20, train_limit=200, test_limit=100), Path(REAL))
    assert_sound(dataset)
    assert (
        np.bincount(dataset.train.labels).tolist() == [10] * 20
        and np.bincount(dataset.test.labels).tolist() == [5] * 20
    )
