"""Cells: addressed by content, written once and whole, damage found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.errors import Failed, HarnessError
from harness.results import checkpoints
from harness.results.cells import Cell, hardware, tensors_path
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store
from harness.results.verification import verify

NAMES = {
    "name": "imperceptible_bound k=1 n=2",
    "settings": "{}",
    "k": 1.0,
    "n": 2,
    "training_attack": None,
    "training_epsilon": None,
    "seed": 0,
}
ROWS = {
    "epoch": [0, 1],
    "loss": [None, 0.5],
    "clean_accuracy": [0.1, 0.9],
    "images_per_s": [None, 10.0],
    "epoch_s": [0.0, 1.0],
    "peak_share": [None, None],
    "device": ["cpu", "cpu"],
    "world_size": [1, 1],
}


BASE = Cell("training", {"dataset": "digits", "method": "base"}, NAMES, {"epochs": 1})


def cell(need=BASE, **spec):
    partition = {"dataset": "digits", "method": "imperceptible_bound"}
    return Cell("training", partition, NAMES, {"epochs": 1, **spec}, (need,), title="bound k=1 n=2")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results").open()


def test_the_key_follows_from_spec_and_needs():
    assert cell().key == cell().key
    assert len({cell().key, cell(epochs=2).key, cell(x=1).key}) == 3
    assert cell(Cell("training", BASE.partition, NAMES, {"epochs": 2})).key != cell().key
    assert cell() == cell() != cell(x=1)
    assert str(cell().path) == f"training/dataset=digits/method=imperceptible_bound/{cell().key}.parquet"


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
    tensors = store.root / tensors_path(cell().path)
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
    for path in (store.root / cell().path, store.root / tensors_path(cell().path)):
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
    store.record_failure(cell(), Failed("the loss is nan", "Traceback ..."))
    assert store.failure(cell()).reason == "the loss is nan"
    ((path, found),) = store.failures().items()
    assert (path, found["title"], found["detail"], found["waits"]) == (
        cell().path.as_posix(),
        "bound k=1 n=2",
        "Traceback ...",
        False,
    )
    assert not store.is_done(cell())
    store.write(cell(), ROWS)
    assert store.failure(cell()) is None
    assert store.failures() == {}
    assert not [path for path in (store.root / "failures").rglob("*") if path.is_file()]


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
    store.record_study("b", {"name": "b"}, {"defense": [cell()]}, {"dataset": "digits"}, [{"position": 0}])
    store.record_study("a", {"name": "a"}, {}, {}, [])
    assert list(store.studies()) == ["b", "a"]
    assert store.studies()["b"] == {
        "schema_version": SCHEMA_VERSION,
        "study": {"name": "b"},
        "about": {"dataset": "digits"},
        "cells": [
            {
                "key": cell().key,
                "table": "training",
                "path": cell().path.as_posix(),
                "title": "bound k=1 n=2",
                "step": "defense",
            }
        ],
        "planned": [{"position": 0}],
    }


def test_a_damaged_study_is_named(store):
    (store.root / "studies").mkdir()
    (store.root / "studies" / "x.json").write_text("{")
    with pytest.raises(HarnessError, match=r"x.json' is damaged.*verify --repair"):
        store.studies()


def test_a_study_of_another_version_is_refused(store):
    """Records of version 2 had no version."""
    (store.root / "studies").mkdir()
    (store.root / "studies" / "x.json").write_text('{"study": {}, "cells": []}')
    with pytest.raises(HarnessError, match="'x' is of an earlier version, this harness reads version 5: run"):
        store.studies()


@pytest.mark.parametrize("content", ["[]", "3", '{"schema_version": 2}'])
def test_a_record_that_is_none_is_found(store, content):
    """By name, and without hiding what is wrong with other files."""
    store.write(cell(), ROWS)
    (store.root / "studies").mkdir()
    (store.root / "studies" / "x.json").write_text(content)
    (whole, nothing), (path, damage) = verify(store)
    assert (whole, nothing, path) == (cell().path, None, Path("studies/x.json"))
    assert "x" in damage and "run" in damage


def test_a_checkpoint_that_goes_meanwhile_is_no_damage(store, monkeypatch):
    """As when its training ends."""
    checkpoints.save(store.folder, cell(), {"a": np.eye(2, dtype=np.float32)}, {"rows": []})
    files = verify(store)
    monkeypatch.setattr(checkpoints, "paths", lambda folder: [checkpoints.path_of(cell(x=1))])
    assert list(files) == [(checkpoints.path_of(cell(x=1)), None)]


@pytest.mark.parametrize("digest", ["", "0", None])
def test_a_digest_that_is_none_is_damage(store, digest):
    store.write(cell(), ROWS)
    path = store.root / cell().path
    meta = store.metadata(cell().path) | {"digest": digest}
    table = store.read(cell()).replace_schema_metadata({b"harness": json.dumps(meta)})
    pq.write_table(table, path)
    with pytest.raises(HarnessError, match="damaged"):
        store.read(cell())


def test_the_title_is_not_part_of_a_cell():
    named = replace(cell(), title="another")
    assert named == cell() and named.key == cell().key


def test_folders_of_tables_can_be_read_as_one(store):
    """What is no Parquet file (weights, failures, checkpoints) lies elsewhere."""
    pandas = pytest.importorskip("pandas")
    tensors = {"w": np.ones(2, np.float32)}
    store.write(BASE, ROWS, tensors)
    store.write(cell(), ROWS, tensors)
    store.record_failure(cell(x=1), Failed("the loss is nan"))
    checkpoints.save(store.folder, cell(x=2), tensors, {"rows": []})
    table = pandas.read_parquet(store.root / "training")
    assert len(table) == 2 * len(ROWS["epoch"])
    assert set(table["method"]) == {"base", "imperceptible_bound"}
    assert set(table["dataset"]) == {"digits"}


def test_folders_of_tables_can_be_read_by_polars(store):
    polars = pytest.importorskip("polars")
    store.write(cell(), ROWS, {"w": np.ones(2, np.float32)})
    assert len(polars.read_parquet(store.root / "training")) == len(ROWS["epoch"])


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
