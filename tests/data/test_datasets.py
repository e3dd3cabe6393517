"""Subsets by class, limit and seed, labels that fit no data set, and fingerprints."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_sources import assert_sound, parquet, same, spec, write_mnist

from harness.data import SOURCES
from harness.data.datasets import DatasetSpec, fingerprint, load, prepare
from harness.data.source import Source, Splits, in_memory
from harness.errors import HarnessError

HEAVY = {"torch", "torchvision", "pyarrow", "sklearn", "PIL"}


def test_a_limit_keeps_exactly_so_many_in_proportion() -> None:
    whole = load(spec("digits"), None).train
    for limit in (10, 101, 1437, 1438):
        kept = load(spec("digits", train_limit=limit, seed=3), None).train
        assert len(kept.ids) == limit and set(kept.ids.tolist()) <= set(whole.ids.tolist())
        exact = np.bincount(whole.labels) * limit / len(whole.labels)
        assert np.abs(np.bincount(kept.labels, minlength=10) - exact).max() < 1
        where = np.searchsorted(whole.ids, kept.ids)
        assert np.array_equal(kept.pixels, whole.pixels[where]) and np.array_equal(
            kept.labels, whole.labels[where]
        )


def test_the_draw_depends_on_the_seed_and_not_on_the_other_split() -> None:
    one = load(spec("digits", classes=4, train_limit=50, test_limit=20, seed=5), None)
    again = load(spec("digits", classes=4, train_limit=50, test_limit=20, seed=5), None)
    assert one.classes == again.classes and same(one.train, again.train) and same(one.test, again.test)
    assert same(one.train, load(spec("digits", classes=4, train_limit=50, seed=5), None).train)
    assert same(one.test, load(spec("digits", classes=4, test_limit=20, seed=5), None).test)
    others = [load(spec("digits", classes=4, train_limit=50, seed=seed), None) for seed in (6, 7)]
    assert any(other.classes != one.classes for other in others)
    assert all(not np.array_equal(other.train.ids, one.train.ids) for other in others)


def test_drawn_classes_keep_their_names_and_all_their_images() -> None:
    whole, part = load(spec("digits"), None), load(spec("digits", classes=3), None)
    assert_sound(part)
    assert len(part.classes) == 3 and list(part.classes) == sorted(part.classes)
    original = np.array([int(name) for name in part.classes])
    kept = np.isin(whole.train.labels, original)
    assert np.array_equal(part.train.ids, whole.train.ids[kept])
    assert np.array_equal(original[part.train.labels], whole.train.labels[kept])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 11}, "at most the 10 classes present, got classes: 11"),
        ({"train_limit": 1439}, "train_limit to be at most the 1438 images that there are, got 1439"),
        ({"test_limit": 360}, "test_limit to be at most the 359 images that there are, got 360"),
        (
            {"white_box_limit": 360},
            "white_box_limit to be at most the 359 test images that are kept, got 360",
        ),
        ({"train_limit": 9}, "train_limit 9 leaves no training image of "),
    ],
)
def test_more_than_there_is_is_an_error(settings: dict[str, int], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        load(spec("digits", **settings), None)


def test_digits_need_no_folder() -> None:
    prepare(spec("digits"), None)
    assert fingerprint(spec("digits"), None) == fingerprint(spec("digits", train_limit=10), None)


def test_images_unpickle_without_readers_of_files(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(pickle.dumps(load(spec("digits"), None)))
    code = (
        "import pickle, sys; dataset = pickle.load(open(sys.argv[1], 'rb'));"
        f" sys.exit(len(dataset.train.ids) != 1438 or bool({HEAVY} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(arguments, cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize("module", ["harness.data", "harness.data.datasets"])
def test_importing_stays_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({HEAVY} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert finished.returncode == 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (([0, 1], [0, 2]), r"test has labels that no training image has: 2 \(2\)"),
        (([0, 1], [0, 77]), r"no training image has: 77 \(unnamed\)"),
        (([0, 12], [0, 0]), "expected labels of the 10 named classes, got 12 in train"),
        (([1, 1], [1, 1]), "expected two classes or more in train, got 1"),
        (([], []), "expected two classes or more in train, got 0"),
        (([0, 1], []), "expected test images of the classes 0, 1, got none"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: tuple[list[int], list[int]], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        load(spec("mnist"), write_mnist(tmp_path, labels))


def test_splits_of_different_size(tmp_path: Path) -> None:
    data = write_mnist(tmp_path, ([0, 1], [0, 1]), size=(4, 6))
    with pytest.raises(
        HarnessError, match=r"images of one size, got 5x5 with 1 channel\(s\) \(train\) and 6x4"
    ):
        load(spec("mnist"), data)


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for name in ("here", "there"):
        write_mnist(tmp_path / name, ([0, 1, 2, 1], [2, 0]))
    one = fingerprint(spec("mnist"), tmp_path / "here")
    assert len(one) == 64 and one == fingerprint(spec("mnist", train_limit=2), tmp_path / "there")
    path = tmp_path / "there/MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    assert one != fingerprint(spec("mnist"), tmp_path / "there")
    which = parquet(tmp_path, [0, 1], [0, 1])
    assert fingerprint(which, tmp_path) == fingerprint(spec("parquet", folder=str(tmp_path / "set")), None)


# --- which data set -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "cifar11"}, "'cifar11' is not possible; did you mean 'cifar10'?"),
        (
            {"source": "imaginary"},
            "is not possible (known: cifar10, digits, fashion_mnist, mnist, parquet, tiny",
        ),
        (
            {"source": "digits", "paper": "fashion_mnist"},
            "'fashion_mnist' is not possible (known: cifar10, mnist, tinyimagenet)",
        ),
        ({"source": "digits", "seed": -1}, "greater than or equal to 0"),
        ({"source": "mnist", "folder": "set"}, "'folder' belongs to source 'parquet', and to it alone"),
        ({"source": "parquet"}, "'folder' belongs to source 'parquet', and to it alone"),
    ],
)
def test_settings_that_name_no_data_set(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        DatasetSpec(**settings)


def test_a_new_source_is_a_value_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(files: list[Path]) -> Splits:
        labels = np.frombuffer(files[0].read_bytes(), np.uint8)
        split = in_memory(np.zeros((len(labels), 1, 2, 2), np.uint8), labels)
        return Splits({0: "no", 1: "yes"}, split, split)

    monkeypatch.setitem(SOURCES, "new", Source(files=("new/labels",), open=read))
    with pytest.raises(HarnessError, match=r"new: expected .*new/labels; --data or HARNESS_DATA sets"):
        prepare(spec("new"), tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/labels").write_bytes(bytes([0, 1, 1, 0]))
    dataset = load(spec("new", train_limit=2), tmp_path)
    assert_sound(dataset)
    assert dataset.classes == ("no", "yes") and dataset.test.labels.tolist() == [0, 1, 1, 0]


def test_every_official_extent_is_that_of_its_class_count() -> None:
    known = {name: source.extent for name, source in SOURCES.items() if source.extent}
    assert {name: extent.classes for name, extent in known.items()} == {
        "mnist": 10,
        "fashion_mnist": 10,
        "cifar10": 10,
        "tinyimagenet": 200,
    }
    assert known["tinyimagenet"].values == 3 * 64 * 64
    assert [name for name, source in SOURCES.items() if source.paper_dataset] == [
        "mnist",
        "cifar10",
        "tinyimagenet",
    ]
