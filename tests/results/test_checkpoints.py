"""Checkpoints: which epochs of a training are kept, when, and what is in the file."""

import hashlib
import json
import threading

import numpy as np
import pytest
import safetensors.numpy

from harness.errors import HarnessError
from harness.results import checkpoints
from harness.results.cells import Cell
from harness.results.storage import Folder

CELL = Cell("training", {"dataset": "digits", "method": "base"}, {}, {})


@pytest.fixture
def folder(tmp_path):
    return Folder.at(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    return now


def epoch(number):
    return {"a": np.full(3, number, np.float32)}, {"rows": [number]}


def kept(folder):
    found = checkpoints.load(folder, CELL)
    return found and found[1]["rows"][0]


def asked(keeper, number):
    """Whether the training was asked for the epoch."""
    seen = []
    keeper.keep(lambda: seen.append(number) or epoch(number))
    return bool(seen)


def test_one_an_interval(folder, clock):
    keeper = checkpoints.Keeper(folder, CELL, 60)
    kept_at = {}
    for now in (100, 159, 160, 170, 219, 220, 400, 459, 460):
        clock[0] = float(now)
        kept_at[now] = asked(keeper, now)
        keeper._writing.result()
    assert [now for now, was in kept_at.items() if was] == [160, 220, 400, 460]
    assert kept(folder) == 460
    keeper.end()


def test_every_epoch_is_on_the_disk_at_once(folder, clock):
    keeper = checkpoints.Keeper(folder, CELL, 0)
    for number in range(3):
        assert asked(keeper, number)
        assert kept(folder) == number
    keeper.end()


def test_training_goes_on_while_an_epoch_is_written(folder, clock, monkeypatch):
    """An epoch that ends meanwhile is not kept; the end waits for the writing."""
    goes_on, save = threading.Event(), checkpoints.save

    def slow(*arguments):
        assert goes_on.wait(60)
        save(*arguments)

    monkeypatch.setattr(checkpoints, "save", slow)
    keeper = checkpoints.Keeper(folder, CELL, 60)
    clock[0] += 60
    assert asked(keeper, 1)
    clock[0] += 60
    assert not asked(keeper, 2)
    assert kept(folder) is None
    goes_on.set()
    keeper.end()
    assert kept(folder) == 1


@pytest.mark.parametrize("interval_s", [0, 60])
def test_an_error_of_the_thread_is_the_trainings(folder, clock, monkeypatch, interval_s):
    def refused(*arguments):
        raise HarnessError("No space left on device")

    monkeypatch.setattr(checkpoints, "save", refused)
    keeper = checkpoints.Keeper(folder, CELL, interval_s)
    clock[0] += 60
    with pytest.raises(HarnessError, match="No space left"):
        keeper.keep(lambda: epoch(1))
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
        assert threads, "written by a thread"
        while not keeper._writing.done():
            pass
        keeper.keep(lambda: epoch(2))
    keeper.end()


def test_the_file_is_safetensors_and_its_digest(folder):
    """As its own library writes and reads it, whatever the kind and number of values."""
    rng = np.random.default_rng(0)
    tensors = {
        "weight": rng.normal(size=(4, 3)).astype(np.float32),
        "half": rng.normal(size=3).astype(np.float16),
        "step": np.float32(7).reshape(()),
        "batches": np.int64(9).reshape(()),
        "mask": np.array([True, False, True]),
        "bytes": np.arange(5, dtype=np.uint8),
        "none": np.empty((0, 2), np.float32),
        "turned": rng.normal(size=(3, 5)).T,
    }
    checkpoints.save(folder, CELL, tensors, {"rows": [1.5, None]})
    content = folder.read(checkpoints.path_of(CELL))
    assert hashlib.sha256(content[:-32]).digest() == content[-32:]
    decoded = safetensors.numpy.load(content[:-32])
    for found in (decoded, checkpoints.load(folder, CELL)[0]):
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    theirs = safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in tensors.items()})
    expected = json.loads(theirs[8 : 8 + int.from_bytes(theirs[:8], "little")])
    for name, entry in expected.items():
        assert header[name]["dtype"] == entry["dtype"] and header[name]["shape"] == entry["shape"]
    assert checkpoints.load(folder, CELL)[1] == {"rows": [1.5, None]}
