"""Results in a local folder and in an object store: the same operations, whole files or none, every refusal
told.
"""

import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
from commands import call, refused
from conftest import Silence, run_study, snapshot, tiny_study
from object_store import BUCKET
from test_store import ROWS, cell

from harness.errors import HarnessError
from harness.pipeline.run import prepare, run_steps
from harness.results import checkpoints
from harness.results.cells import tensors_path
from harness.results.storage import Folder
from harness.results.store import Store
from harness.results.verification import verify
from harness.study.reading import build

KINDS = ("local", "s3")
LARGE = 20_000_000  # bytes; pyarrow sends them in parts
MANY = {name: values * 500 for name, values in ROWS.items()} | {
    "clean_accuracy": list(np.random.default_rng(0).random(1000))
}


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """Where no results are yet."""
    if request.param == "local":
        return tmp_path / "a b[1]"
    return request.getfixturevalue("object_store").uri(f"{tmp_path.name}/a b[1]")


@contextmanager
def gate(server, function):
    """Every request of the server goes through a function meanwhile."""
    before, server.gate = server.gate, function
    try:
        yield
    finally:
        server.gate = before


# --- files ------------------------------------------------------------------------------------------


def test_files(place):
    folder = pickle.loads(pickle.dumps(Folder.at(place)))
    assert folder.info("x=1/a") is None and folder.files("x=1", "") == {}
    with pytest.raises(FileNotFoundError):
        folder.read("x=1/a")
    folder.delete("x=1/a")
    for path in ("x=1/b 2.txt", "x=1/y/a.txt", "x=1/.hidden.txt", "x=1/c.json", "z.txt"):
        folder.write(path, path.encode())
    assert [str(path) for path in folder.files("x=1", ".txt")] == ["x=1/b 2.txt", "x=1/y/a.txt"]
    assert folder.files("x=1", ".txt")[Path("x=1/y/a.txt")] == folder.info("x=1/y/a.txt")
    assert folder.info("x=1/y/a.txt").size == 11
    assert abs(folder.info("x=1/y/a.txt").modified_ns / 1e9 - time.time()) < 3600
    assert folder.info("x=1/y") is None
    with folder.open("x=1/b 2.txt") as file:
        assert file.read_at(3, 4) == b"b 2"
    folder.write("z.txt", b"")
    assert folder.read("z.txt") == b""
    folder.delete("z.txt")
    assert folder.info("z.txt") is None and folder.read("x=1/c.json") == b"x=1/c.json"


def test_copies_follow_what_they_are_copies_of(place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Folder.at(place)
    for text in (b"one", b"other", b"a third"):
        folder.write("t/a.txt", text)
        found = folder.files("t", ".txt")
        assert [(folder.copied(found) / path).read_bytes() for path in found] == [text]
    kept = {path: path.stat().st_ino for path in (tmp_path / "cache").rglob("*")}
    folder.copied(found)
    assert {path: path.stat().st_ino for path in (tmp_path / "cache").rglob("*")} == kept
    assert (folder.local is None) == bool(kept)


def test_no_copy_is_made_outside_the_cache(object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    urllib.request.urlopen(
        urllib.request.Request(
            f"http://{object_store.address}/{BUCKET}/up/t/../../../../evil.txt", b"x", method="PUT"
        )
    )
    folder = Folder.at(object_store.uri("up"))
    folder.write("t/good.txt", b"x")
    found = folder.files("t", ".txt")
    assert (
        len(list(folder._files.get_file_info(pyarrow.fs.FileSelector(f"{BUCKET}/up/t", recursive=True)))) > 1
    )
    assert list(found) == [Path("t/good.txt")]


WRITER = """
import os, signal, sys, time
from harness.results.storage import Folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests ignoring it
if sys.argv[2] == "local":
    def fsync(file): print("in the middle", flush=True); time.sleep(600)
    os.fsync = fsync
Folder.at(sys.argv[1]).write("t/large", b"x" * int(sys.argv[3]))
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_that_is_stopped_in_the_middle_leaves_nothing_or_all(place, sign, request):
    """A reader that looks all the time sees no part, nor does one that comes later."""
    kind, folder, seen, over = (
        ("s3" if isinstance(place, str) else "local"),
        Folder.at(place),
        set(),
        threading.Event(),
    )
    middle, release = threading.Event(), threading.Event()

    def hold(method, address):
        if "partNumber=2" in address:
            middle.set()
            release.wait(60)

    def look():
        while not over.wait(0.01):
            found = folder.info("t/large")
            seen.update({found and found.size, *(info.size for info in folder.files("t", "").values())})

    command = [sys.executable, "-c", WRITER, str(place), kind, str(LARGE)]
    with gate(request.getfixturevalue("object_store"), hold):
        reader = threading.Thread(target=look)
        reader.start()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
            assert writer.stdout.readline() == b"in the middle\n" if kind == "local" else middle.wait(60)
            writer.send_signal(sign)
            if sign == signal.SIGKILL:
                writer.wait()
            release.set()
        assert writer.returncode != 0
        time.sleep(0.1)
        over.set()
        reader.join()
    assert seen <= {None, LARGE}
    if sign == signal.SIGKILL:
        assert seen == {None}
    folder.write("t/large", b"y" * LARGE)  # what is left of the other does not disturb
    assert folder.read("t/large") == b"y" * LARGE


def test_an_upload_that_fails_in_the_middle_leaves_what_was_there(object_store):
    folder = Folder.at(object_store.uri("failing"))
    folder.write("large", b"before")
    with gate(object_store, lambda method, address: "AccessDenied" if "partNumber=2" in address else None):
        with pytest.raises(
            HarnessError,
            match="failing/large' cannot be written: expected credentials that may read and write",
        ):
            folder.write("large", b"x" * LARGE)
    assert folder.read("large") == b"before"


# --- cells ------------------------------------------------------------------------------------------


def test_cells(place):
    store = Store(place).open()
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert store.missing([cell(), cell(x=1)]) == [cell(), cell(x=1)]
    store.write(cell(), ROWS, tensors, cores=2)
    store = pickle.loads(pickle.dumps(store))
    assert store.is_done(cell()) and store.missing([cell(x=1), cell()]) == [cell(x=1)]
    assert store.read(cell())["loss"].to_pylist() == [None, 0.5]
    assert store.metadata(cell().path)["facts"] == {"cores": 2}
    assert np.array_equal(store.tensors(cell())["w"], tensors["w"])
    assert list(store.files()) == [cell().path]
    assert list(verify(store)) == [(cell().path, None)]
    assert abs(store.modified(cell().path) - time.time()) < 3600
    with pytest.raises(HarnessError, match="is missing: run its study again"):
        store.read(cell(x=1))


def test_metadata_longer_than_what_is_read_at_first(place):
    store, long = Store(place).open(), cell(much=[f"{number:x}" * 40 for number in range(5000)])
    store.write(long, ROWS)
    assert store.is_done(long) and store.metadata(long.path)["spec"] == long.spec


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "tensors flipped", "tensors gone"])
def test_damage_is_found(place, kind):
    store = Store(place).open()
    store.write(cell(), MANY, {"w": np.ones(100, np.float32)})
    path = tensors_path(cell().path) if kind.startswith("tensors") else cell().path
    data = bytearray(store.folder.read(path))
    data[len(data) // 2 if kind == "flipped" else -5] ^= 0xFF
    contents = {"truncated": data[:-100], "empty": b""}
    store.folder.write(path, bytes(contents.get(kind, data)))
    if kind == "tensors gone":
        store.folder.delete(path)
    ((found, damage),) = verify(store)
    assert found == cell().path and damage is not None
    assert store.is_done(cell()) == (kind in ("flipped", "tensors flipped"))


def test_checkpoints(place):
    store = Store(place).open()
    assert checkpoints.load(store.folder, cell()) is None
    for epoch in (0, 1):
        checkpoints.save(
            store.folder, cell(), {"a": epoch * np.eye(2, dtype=np.float32)}, {"rows": [{"epoch": epoch}]}
        )
    tensors, state = checkpoints.load(store.folder, cell())
    assert np.array_equal(tensors["a"], np.eye(2)) and state == {"rows": [{"epoch": 1}]}
    checkpoints.drop(store.folder, cell())
    checkpoints.drop(store.folder, cell())
    assert checkpoints.load(store.folder, cell()) is None


def test_studies(place):
    store = Store(place).open()
    store.record_study("a", {"name": "a"}, {"defense": [cell()]}, {}, [])
    store.record_study("b", {"name": "b"}, {}, {}, [])
    written = store.folder.files("studies", ".json")
    store.record_study("b", {"name": "b"}, {}, {}, [])
    assert store.folder.files("studies", ".json") == written
    assert list(store.studies()) == ["a", "b"]
    (listed,) = store.studies()["a"]["cells"]
    assert (listed["key"], listed["path"]) == (cell().key, cell().path.as_posix())


# --- studies ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The tiny study's values, made in a local folder."""
    results = tmp_path_factory.mktemp("here")
    run_study(tiny_study(), results)
    return snapshot(results)


def test_a_study_in_an_object_store(here, tiny, object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = object_store.uri("tiny")
    run_study(tiny, results)
    assert snapshot(results) == here
    written = Store(results).files()
    run_study(tiny, results)
    assert Store(results).files() == written
    assert not Store(results).folder.files("checkpoints", ".checkpoint")

    assert call("verify", "--results", results) == (0, "32 cells whole, 0 files damaged\n")
    code, output = call("tables", "--results", results)
    assert code == 0 and "Table II: sigma" in output and "White box" in output
    code, output = call(
        "sql", "select count(*) as rows from evaluation", "--format", "csv", "--results", results
    )
    assert (code, output) == (0, "rows\n800\n")
    assert "error:" in refused("sql", "from read_csv('/etc/passwd')", "--results", results)

    lost, *_ = written
    Store(results).folder.write(lost, b"PAR1")
    code, output = call("verify", "--results", results)
    assert code == 1 and f"damaged: 's3://{BUCKET}/tiny/{lost}'" in output
    Store(results).folder.delete(lost)
    code, output = call("sql", "select count(*) as n from missing", "--format", "csv", "--results", results)
    assert output == "n\n1\n"  # the copy is no result
    run_study(tiny, results)
    assert snapshot(results) == here


@pytest.mark.ray
def test_workers_write_to_an_object_store(here, tiny, object_store, ray_session):
    results = object_store.uri("workers")
    for workers, steps, cells in ((0, ("bound", "base-network"), 5), (2, ("defense",), 2)):
        run = prepare(build(tiny | {"compute": {"workers": workers}}), Store(results), None, Silence())
        assert run_steps(run, steps) == cells
    assert snapshot(results).items() <= here.items()


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gs://bucket/x", "expected a folder, file:///FOLDER or s3://BUCKET/PREFIX, got 'gs:'"),
        ("http://127.0.0.1/x", "expected a folder, file:///FOLDER or s3://BUCKET/PREFIX, got 'http:'"),
        ("s3:/bucket/x", "expected s3://BUCKET/PREFIX, got the bucket ''"),
        (Path("s3://bucket/x"), "expected a folder, file:///FOLDER"),
        ("s3://", "expected s3://BUCKET/PREFIX, got the bucket ''"),
        ("s3://key:secret@bucket/x", "leave the credentials to AWS_"),
        ("s3://bucket/x?endpoint=127.0.0.1", "unknown option 'endpoint'; did you mean 'endpoint_override'?"),
        ("s3://bucket/x?scheme=ftp", "expected scheme=http or https, got 'ftp'"),
        ("s3://bucket/x?scheme", "expected options as name=value&name=value, got 'scheme'"),
    ],
)
def test_a_place_that_cannot_be_one(place, message):
    with pytest.raises(HarnessError, match=re.escape(message)) as told:
        Store(place).open()
    assert "key:secret" not in str(told.value)


def test_a_local_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = {
        text: str(Folder.at(text)) for text in ("r", "~/r", "/r", "file:///r/a%20b", "C:/r", "results=x:y")
    }
    assert found == {
        "r": f"{tmp_path}/r",
        "~/r": "/home/me/r",
        "/r": "/r",
        "file:///r/a%20b": "/r/a b",
        "C:/r": f"{tmp_path}/C:/r",
        "results=x:y": f"{tmp_path}/results=x:y",
    }
    assert str(Folder.at(Path("r"))) == "r"


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_an_object_store_that_refuses(object_store, tiny, tmp_path, monkeypatch):
    results = object_store.uri("refusing")
    assert "there is no such bucket: create it first" in refused(
        "run", "quick", "--results", object_store.uri("x", "elsewhere")
    )
    for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        with gate(object_store, lambda method, address, code=code: code):
            message = refused("verify", "--results", results)
        expected = "expected credentials that may read and write there (AWS_ACCESS_KEY_ID"
        assert f"'s3://bucket/refusing' cannot be used: {expected}" in message
    with gate(object_store, lambda method, address: "AccessDenied" if method in ("PUT", "POST") else None):
        assert "cannot be written: expected credentials" in refused("run", "quick", "--results", results)
    assert "holds no results" in refused("tables", "--results", results)
    monkeypatch.setenv(
        "HARNESS_RESULTS",
        f"s3://bucket/x?endpoint_override=127.0.0.1:{closed_port()}&scheme=http&region=us-east-1",
    )
    assert "'s3://bucket/x' cannot be used: nothing answers there: is the address right" in refused(
        "run", "quick"
    )


def test_an_object_store_that_goes_away_is_not_damage(object_store):
    """What is finished must not be done again because it could not be seen for a while."""
    store = Store(object_store.uri("away")).open()
    store.write(cell(), ROWS)
    with gate(object_store, lambda method, address: "AccessDenied"):
        for ask in (
            lambda: store.is_done(cell()),
            lambda: store.missing([cell()]),
            lambda: list(verify(store)),
            lambda: checkpoints.load(store.folder, cell()),
        ):
            with pytest.raises(HarnessError, match="expected credentials"):
                ask()
    assert store.is_done(cell())
