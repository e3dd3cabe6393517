"""Cells: addressed by content, written once and whole, damage found."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness import checkpoints
from harness.audit import verify
from harness.cells import Cell, hardware
from harness.errors import Failed, HarnessError
from harness.records import SCHEMA_VERSION
from harness.store import Store

NAMES = {"k": 1.0, "n": 2, "training_attack": None, "training_epsilon": None, "seed": 0}
ROWS = {
    "epoch": [0, 1], "loss": [None, 0.5], "clean_accuracy": [0.1, 0.9], "images_per_s": [None, 10.0], "epoch_s": [0.0, 1.0],
    "peak_share": [None, None],
    "device": ["cpu", "cpu"], "world_size": [1, 1],
}  # fmt: skip


BASE = Cell("training", {"dataset": "digits", "training": "base"}, NAMES, {"epochs": 1})


def cell(need=BASE, **spec):
    return Cell("training", {"dataset": "digits", "training": "vib"}, NAMES, {"epochs": 1, **spec}, (need,))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results").open()


def test_the_key_follows_from_spec_and_needs():
    assert cell().key == cell().key
    assert len({cell().key, cell(epochs=2).key, cell(x=1).key}) == 3
    assert cell(Cell("training", BASE.partition, NAMES, {"epochs": 2})).key != cell().key
    assert cell() == cell() != cell(x=1)
    assert str(cell().path) == f"training/dataset=digits/training=vib/{cell().key}.parquet"


def test_round_trip(store):
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert not store.is_done(cell())
    store.write(cell(), ROWS, tensors, cores=2)
    assert store.is_done(cell())
    table = store.read(cell())
    assert table["loss"].to_pylist() == [None, 0.5]
    assert table["k"].to_pylist() == [1.0, 1.0]
    assert table["cell"].to_pylist() == [cell().key] * 2
    assert np.array_equal(store.tensors(cell())["w"], tensors["w"])
    meta = json.loads(pq.read_schema(store.root / cell().path).metadata[b"harness"])
    assert meta["spec"] == {"epochs": 1}
    assert meta["facts"] == {"cores": 2}
    assert [damage for _, damage in verify(store)] == [None]
    assert not list(store.root.rglob("*.tmp"))


def test_columns_are_described(store):
    store.write(cell(), ROWS)
    assert all(field.metadata[b"meaning"] for field in pq.read_schema(store.root / cell().path))


def damage_tail(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "kind", ["flipped", "truncated", "empty", "tensors flipped", "tensors gone", "renamed"]
)
def test_damage_is_found_and_named(store, kind):
    many = {name: values * 500 for name, values in ROWS.items()}
    many["clean_accuracy"] = list(np.random.default_rng(0).random(1000))
    store.write(cell(), many, {"w": np.ones(100, np.float32)})
    path = store.root / cell().path
    tensors = path.with_suffix(".safetensors")
    if kind == "flipped":
        damage_tail(path, path.stat().st_size // 2)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "tensors flipped":
        damage_tail(tensors, tensors.stat().st_size - 5)
    elif kind == "tensors gone":
        tensors.unlink()
    else:
        path.rename(path.with_name("0" * 16 + ".parquet"))
    ((_, found),) = verify(store)
    assert found is not None
    if kind in ("truncated", "empty", "tensors gone", "renamed"):
        assert not store.is_done(cell())
    if kind == "flipped":
        with pytest.raises(HarnessError, match=r"damaged.*run again"):
            store.read(cell())
    if kind == "tensors flipped":
        with pytest.raises(HarnessError, match=r"damaged.*run again"):
            store.tensors(cell())


def test_every_byte_is_checked(store):
    """A flipped bit anywhere: in pages, in the footer's statistics or settings, in the tensors."""
    store.write(cell(), ROWS, {"w": np.ones(20, np.float32)}, **hardware())
    for path in (store.root / cell().path, (store.root / cell().path).with_suffix(".safetensors")):
        whole = path.read_bytes()
        for at in range(0, len(whole), 5):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            ((_, found),) = verify(store)
            assert found is not None, (path.suffix, at)
        path.write_bytes(whole)
    assert [found for _, found in verify(store)] == [None]


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(HarnessError, match="No space left on device. What is finished stays: make room"):
        store.write(cell(), ROWS)
    monkeypatch.undo()
    assert not store.is_done(cell())
    assert not [path for path in (store.root / "training").rglob("*") if path.is_file()]


def test_a_failure_is_kept_until_the_cell_is_made(store):
    assert store.failure(cell()) is None
    store.record_failure(cell(), "vib k=1 n=2", Failed("the loss is nan", "Traceback ..."))
    assert store.failure(cell()) == "the loss is nan"
    ((path, found),) = store.failures().items()
    assert (path, found["title"], found["detail"], found["waits"]) == (
        cell().path.as_posix(),
        "vib k=1 n=2",
        "Traceback ...",
        False,
    )
    assert not store.is_done(cell())
    store.write(cell(), ROWS)
    assert store.failure(cell()) is None
    assert not list(store.root.rglob("*.failed.json"))


def test_checkpoints(store):
    assert checkpoints.load(store.folder, cell()) is None
    checkpoints.save(
        store.folder, cell(), {"a": np.eye(2, dtype=np.float32)}, {"rows": [{"epoch": 0, "loss": None}]}
    )
    tensors, state = checkpoints.load(store.folder, cell())
    assert np.array_equal(tensors["a"], np.eye(2))
    assert state == {"rows": [{"epoch": 0, "loss": None}]}
    path = store.root / checkpoints.path_of(cell())
    path.write_bytes(path.read_bytes()[:-3])
    assert checkpoints.load(store.folder, cell()) is None


def test_studies_keep_the_order_of_recording(store):
    store.record_study("b", {"name": "b"}, [cell()])
    store.record_study("a", {"name": "a"}, [])
    assert list(store.studies()) == ["b", "a"]
    assert store.studies()["b"]["cells"] == [
        {"key": cell().key, "table": "training", "path": cell().path.as_posix()}
    ]


def test_a_damaged_study_is_named(store):
    (store.root / "studies").mkdir()
    (store.root / "studies" / "x.json").write_text("{")
    with pytest.raises(HarnessError, match=r"x.json' is damaged.*verify --repair"):
        store.studies()


def test_another_version_is_refused_and_left_alone(store):
    marker = store.root / "harness.json"
    marker.write_text('{"schema_version": 99}')
    with pytest.raises(HarnessError, match=f"schema version 99.*reads and writes {SCHEMA_VERSION}"):
        store.open()
    assert marker.read_text() == '{"schema_version": 99}'


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        Store(tmp_path / "file" / "results").open()
    with pytest.raises(HarnessError, match="cannot be written"):
        Store(Path("/proc/results")).open()


def test_no_results_yet(tmp_path):
    with pytest.raises(HarnessError, match="holds no results"):
        Store(tmp_path).check_version()


def test_a_cell_that_is_done_stays(store):
    store.write(cell(), ROWS, {"w": np.zeros(2, np.float32)})
    store.write(cell(), ROWS, {"w": np.ones(2, np.float32)})
    assert store.tensors(cell())["w"].tolist() == [0, 0]
