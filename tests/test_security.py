"""What comes from outside, tried with what an attacker would send: nothing runs, nothing leaves its folder.

Beside it: SQL that writes or reads elsewhere in test_views.py, archives cut or corrupt in test_sources.py.
"""

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from mini_study import BASE, record, write
from tiny_sources import spec as dataset_spec
from tiny_sources import write_zip

from harness.cli import main
from harness.data import SOURCES, tinyimagenet
from harness.data.datasets import load
from harness.errors import HarnessError
from harness.networks import weights
from harness.report import database
from harness.results import checkpoints
from harness.results.cells import Cell, tensors_path
from harness.results.store import Store
from harness.results.verification import verify
from harness.study import reading


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that would be there if anything had run."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # the payload works
    path.unlink()
    yield path
    assert not path.exists()


# --- archives and images ----------------------------------------------------------------------------


def _refused(tmp_path: Path, words: str) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(HarnessError, match=words):
        load(dataset_spec("tinyimagenet"), tmp_path)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["../out", "tiny-imagenet-200/../../out", "/out", "C:\\out", "\\\\host\\out", "..\\out"]
)
def test_a_member_that_leaves_its_folder(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path, {name: b"x"})
    _refused(tmp_path, "refused: member '.*out' leaves the folder")


def test_a_member_that_is_a_link(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_zip(tmp_path), "a") as archive:
        link = zipfile.ZipInfo("tiny-imagenet-200/train/n01/images/n01_9.JPEG")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    _refused(tmp_path, "refused: member '.*n01_9.JPEG' is a link")


def test_a_bomb_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that each look harmless, and together fill a disk."""
    monkeypatch.setattr(tinyimagenet, "UNPACKED_LIMIT_BYTES", 3_000_000)
    write_zip(tmp_path, {f"tiny-imagenet-200/{number}": bytes(1_000_000) for number in range(4)})
    _refused(tmp_path, "refused: expected at most 3000000 bytes unpacked, got 4")


def test_a_bomb_by_ratio(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_zip(tmp_path), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny-imagenet-200/bomb", bytes(50_000_000))
    _refused(tmp_path, "refused: member '.*bomb' unpacks 48[0-9]{3} bytes to 50000000")


def test_a_member_that_understates_its_size(tmp_path: Path) -> None:
    path, honest = write_zip(tmp_path), (3_000_000).to_bytes(4, "little")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt2", bytes(3_000_000))
    content = (
        path.read_bytes()
        .replace(b"val_annotations.txt2", b"val_annotations.txt\0")
        .replace(honest, (10).to_bytes(4, "little"))
    )
    path.write_bytes(content)
    _refused(tmp_path, "truncated or corrupt|expected every member once")


def test_a_member_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_zip(tmp_path), "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("tiny-imagenet-200/words.txt", "n01\tanother\n")
    _refused(tmp_path, "refused: expected every member once, got two of tiny-imagenet-200/words.txt")


def _png_header(width: int, height: int) -> bytes:
    from PIL import Image

    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    content = bytearray(small.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_png_header(100_000, 100_000), "DecompressionBomb"),
        (_png_header(5_000, 5_000), "refused: expected at most 16777216 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(touch ran) system\n", "cannot be read"),
    ],
)
def test_images_that_do_harm(tmp_path: Path, content: bytes, words: str) -> None:
    """A few bytes that promise gigabytes of pixels, and a format for which Pillow starts a program."""
    write_zip(tmp_path, {"tiny-imagenet-200/train/n02/images/n02_1.JPEG": content})
    _refused(tmp_path, words)


# --- pickles ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["weights.safetensors", "vgg16-397923af.pth"])
def test_a_pickle_as_weights(tmp_path: Path, marker: Path, name: str) -> None:
    import torch

    payload = tmp_path / name
    payload.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(HarnessError, match="not a safetensors file|cannot be read as tensors alone"):
        weights.read(payload)
    if payload.suffix == ".pth":  # in the format of today as in that of old, which a bare pickle is
        torch.save({"features.0.weight": torch.zeros(2), "more": Payload(marker)}, payload)
        with pytest.raises(HarnessError, match=r"GLOBAL getattr was not.*Save the network's state_dict\(\)"):
            weights.read(payload)


@pytest.fixture
def cell() -> Cell:
    return BASE


def test_a_pickle_as_a_cells_tensors(tmp_path: Path, marker: Path, cell: Cell) -> None:
    """With the digest that the cell's own file gives: who can write one can write the other."""
    store = Store(tmp_path / "results").open()
    write(store, cell)
    payload = pickle.dumps(Payload(marker))
    rows = {
        name: store.read(cell)[name].to_pylist()
        for name in store.read(cell).column_names
        if name not in ("cell", *cell.columns)
    }
    store.write(cell, rows, {"weight": np.zeros(2)})
    meta = store.metadata(cell.path)
    meta["artifact"] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    path = store.root / cell.path
    pq.write_table(store.read(cell).replace_schema_metadata({b"harness": json.dumps(meta).encode()}), path)
    tensors = store.root / tensors_path(cell.path)
    tensors.parent.mkdir(parents=True)
    tensors.write_bytes(payload)
    assert store.is_done(cell)
    with pytest.raises(HarnessError, match="no safetensors file"):
        store.tensors(cell)


def test_a_pickle_as_a_checkpoint(tmp_path: Path, marker: Path, cell: Cell) -> None:
    store = Store(tmp_path / "results").open()
    checkpoints.save(store.folder, cell, {"weight": np.zeros(2)}, {})
    payload = pickle.dumps(Payload(marker))
    for content in (payload, hashlib.sha256(payload).digest() + payload):
        (store.root / checkpoints.path_of(cell)).write_bytes(content)
        assert checkpoints.load(store.folder, cell) is None  # the training starts over


def test_cifar10s_pickles_are_known_by_their_digest(tmp_path: Path, marker: Path) -> None:
    """The official files are pickles: whatever is not one of them, byte by byte, is not unpickled."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in SOURCES["cifar10"].files:
        (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(HarnessError, match="not the official MD5"):
        load(dataset_spec("cifar10"), tmp_path)


# --- YAML -------------------------------------------------------------------------------------------

BOMB = (
    "a: &a ["
    + ", ".join(["x" * 50] * 10)
    + "]\n"
    + "".join(
        f"{name}: &{name} [{', '.join(['*' + below] * 10)}]\n"
        for below, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
)


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch {marker}']",
        "name: !!python/object/new:os.system ['touch {marker}']",
        "!!python/object/apply:subprocess.check_output [['touch', '{marker}']]",
        BOMB,
        "a: &a [*a]",
        "[" * 5000,
        "seed: " + "9" * 5000,
        "name: 2001-99-99",
    ],
)
def test_yaml_that_does_harm(tmp_path: Path, marker: Path, text: str) -> None:
    """Tags that call functions, aliases for 10^10 entries, a list in itself, endless depths and numbers."""
    study = tmp_path / "study.yaml"
    study.write_text(text.replace("{marker}", str(marker)))
    with pytest.raises(HarnessError):
        reading.load(str(study))
    with pytest.raises(HarnessError):
        reading.load("quick", (f"name={text.partition(' ')[2].replace('{marker}', str(marker)) or '['}",))


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "x\n", "a\\b", "X", "x" * 41, ""])
def test_names_are_no_paths(name: str) -> None:
    plain = reading.load("quick").model_dump(mode="json")
    for changed in (
        {"name": name},
        {"dataset": {**plain["dataset"], "name": name}},
        {"attacks": {name: {"method": "deepfool"}}},
    ):
        with pytest.raises(HarnessError, match="mistake"):
            reading.build({**plain, **changed})


@pytest.mark.parametrize("folder", ["..", "a/..", "/", "a\nb"])
def test_folders_that_name_no_data_set(folder: str) -> None:
    plain = reading.load("quick").model_dump(mode="json")
    with pytest.raises(HarnessError, match="name"):
        reading.build({**plain, "dataset": {"source": "parquet", "folder": folder}})


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": "training/../../secret.parquet"},
        {"path": "training/other.parquet"},
        {"table": "no_table"},
        {"path": None},
        {"path": ""},
    ],
)
def test_a_study_that_names_files_elsewhere(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store(tmp_path / "results").open()
    record(store)
    path = store.root / "studies" / "mini.json"
    content = json.loads(path.read_text())
    content["cells"][0] |= change
    path.write_text(json.dumps(content))
    for read in (store.studies, lambda: database.connect(store)):
        with pytest.raises(HarnessError, match=r"mini\.json' is damaged"):
            read()


@pytest.mark.parametrize("meta", ["[]", "null", "{}", '{"schema_version": 2}', "no json"])
def test_a_parquet_file_of_someone_else(tmp_path: Path, cell: Cell, meta: str) -> None:
    store = Store(tmp_path).open()
    write(store, cell)
    path = store.root / cell.path
    pq.write_table(store.read(cell).replace_schema_metadata({b"harness": meta.encode()}), path)
    assert not store.is_done(cell)
    ((_, damage),) = verify(store)
    assert damage is not None


# --- SQL, beyond test_views -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "load httpfs",
        "pragma database_list",
        "from read_csv('/etc/passwd')",
        "from '/etc/passwd'",
        "from read_blob('/etc/passwd')",
        "from parquet_metadata('/etc/passwd')",
        "from sniff_csv('/etc/passwd')",
        "select getenv('HOME')",
        "reset threads",
        "set allowed_directories = ['/']",
        "pragma enable_external_access",
        "from 'https://example.org/x.parquet'",
        "call force_checkpoint()",
        "create macro m() as 1",
        "from read_parquet('{root}/**')",
        "from read_text('{root}/../x')",
        "detach memory",
        "use temp",
        "vacuum",
    ],
)
def test_sql_reads_the_tables_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, query: str) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "sql").open()
    record(store)
    with database.connect(store) as connection, pytest.raises(HarnessError):
        database.query(connection, query.format(root=store.root))


# --- what listens -----------------------------------------------------------------------------------


def _listening(port: int) -> set[str]:
    """Addresses that listen at a port, as the kernel writes them (IPv4 and IPv6)."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        if (path := Path("/proc/net", name)).exists()
        for line in path.read_text().splitlines()
    ]
    return {
        fields[1].partition(":")[0]
        for fields in lines
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
    }


def _status(url: str, method: str = "GET", **headers: str) -> int:
    body = b'{"max_results": 1}' if method == "POST" else None
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_mlflows_page_is_for_this_machine_and_its_own_pages(tmp_path: Path) -> None:
    """Neither a name that was rebound to the loopback nor another page's script gets an answer."""
    store, port = Store(tmp_path).open(), _free_port()
    record(store)
    write(store, BASE)
    command = [sys.executable, "-m", "harness.cli", "ui", "--results", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert any("Ctrl-C" in line for line in child.stdout)
            assert _listening(port) == {"0100007F"}
            search = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
            for own in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:8080"):
                assert _status(search + "?max_results=1", Host=own) == 200
            for foreign in (
                "evil.example",
                f"evil.example:{port}",
                "10.evil.example",
                "192.168.evil.example",
                "127.0.0.1.evil.example",
            ):
                assert _status(search + "?max_results=1", Host=foreign) == 403
                assert _status(f"http://127.0.0.1:{port}/", Host=foreign) == 403
            assert _status(search, "POST") == 200
            for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
                assert _status(search, "POST", Origin=origin) == 403
        finally:
            child.send_signal(signal.SIGINT)
    assert not _listening(port)


DASHBOARD = """
import sys
import ray
port = int(sys.argv[1])
context = ray.init(address="local", num_cpus=1, dashboard_host="127.0.0.1", dashboard_port=port,
                   include_dashboard=True, log_to_driver=False, object_store_memory=80_000_000)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
INTRUDER = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('in')"


@pytest.mark.ray
def test_ray_answers_nobody_without_the_token(tmp_path: Path) -> None:
    token, port = tmp_path / "token", _free_port()
    token.write_text("5" * 64)
    token.chmod(0o600)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    }
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", DASHBOARD, str(port)]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as head:
        assert head.stdin is not None and head.stdout is not None
        try:
            gcs = head.stdout.readline().strip()
            assert _listening(port) == {"0100007F"}
            for path in ("api/jobs/", "api/cluster_status", "nodes?view=summary"):
                assert _status(f"http://127.0.0.1:{port}/{path}") == 401
                assert _status(f"http://127.0.0.1:{port}/{path}", Authorization="Bearer " + "6" * 64) in (
                    401,
                    403,
                )
                assert _status(f"http://127.0.0.1:{port}/{path}", Authorization="Bearer " + "5" * 64) == 200
            job = f"http://127.0.0.1:{port}/api/jobs/"
            assert _status(job, "POST") == 401
            without = environment | {"RAY_AUTH_MODE": "disabled"}
            tried = subprocess.run(
                [sys.executable, "-c", INTRUDER, gcs],
                env=without,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert tried.returncode != 0 and "in" not in tried.stdout.split()
            assert "token" in tried.stderr.lower()
        finally:
            head.stdin.close()


def test_a_bad_study_is_one_message(tmp_path: Path, marker: Path) -> None:
    study = tmp_path / "evil.yaml"
    study.write_text(f"!!python/object/apply:os.system ['touch {marker}']")
    outcome = CliRunner().invoke(main, ["run", str(study), "--results", str(tmp_path / "results")])
    assert outcome.exit_code == 2 and "not a YAML file: could not determine a constructor" in " ".join(
        outcome.output.split()
    )
