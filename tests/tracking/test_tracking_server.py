"""Runs on an MLflow server, and an MLflow that is away.

The study ends as it would, and `harness track` sends what is missing.
"""

import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mini_study import BASE, filled, record, write

from harness.cli import main
from harness.errors import HarnessError
from harness.results.store import Store
from harness.tracking import client, ui
from harness.tracking import sync as syncing
from harness.tracking.destination import TrackingError, destination, state_folder
from harness.tracking.links import links
from harness.tracking.sync import sync


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(Store(tmp_path / "results"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on the loopback, with a database of its own."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--default-artifact-root",
        str(folder / "artifacts"),
    ]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert child.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        ui._end(child)


def runs(uri: str, store: Store) -> dict[str, Any]:
    """The runs of these results at a server: name -> run; fails on doubles."""
    from mlflow import MlflowClient

    mlflow = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    found = mlflow.search_runs(experiments, f'tags.owner = "{store.identity()}"')
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def artifact(uri: str, run: Any) -> bytes:
    """The report that a run holds, through MLflow."""
    from mlflow import MlflowClient

    with TemporaryDirectory() as folder:
        return Path(MlflowClient(uri).download_artifacts(run.info.run_id, "report.html", folder)).read_bytes()


def call(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and output of `harness ARGUMENTS`."""
    outcome = CliRunner().invoke(
        main, [str(argument) for argument in arguments], env={"COLUMNS": "200", **environment}
    )
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.output


# --- a server ---------------------------------------------------------------------------------------


def test_a_server_has_the_same_runs_as_the_database(store: Store, server: str) -> None:
    assert sync(store, "mini", server) == 4
    assert sync(store, "mini", server + "/") == 0
    assert sync(store, "mini") == 4  # one destination knows nothing of the other
    assert sync(store, "mini") == 0
    own, sent = runs(destination(store).uri, store), runs(server, store)
    assert sorted(own) == sorted(sent)
    for name in own:
        assert (own[name].data.metrics, own[name].data.params) == (
            sent[name].data.metrics,
            sent[name].data.params,
        )
        assert (own[name].info.start_time, own[name].info.end_time) == (
            sent[name].info.start_time,
            sent[name].info.end_time,
        )
    assert artifact(server, sent["mini"]) == artifact(destination(store).uri, own["mini"])
    shown: list[dict[str, dict[str, str]]] = []
    ui.serve(store, on_ready=shown.append, uri=server)
    assert shown[0]["mini"]["charts"].startswith(
        f"{server}/#/experiments/{sent['base'].info.experiment_id}/runs?"
    )
    assert sent["base"].info.run_id in shown[0]["mini"]["compare"]
    assert own["base"].info.run_id in links(store, "mini")["compare"]


def test_an_emptied_server_is_filled_again(store: Store, server: str) -> None:
    from mlflow import MlflowClient

    options = ["--results", store.root]
    assert call("track", *options, HARNESS_TRACKING_URI=server) == (0, f"mini: 4 runs written to {server}\n")
    for run in runs(server, store).values():
        MlflowClient(server).delete_run(run.info.run_id)
    assert call("track", "mini", *options, "--tracking-uri", server) == (
        0,
        f"mini: 4 runs written to {server}\n",
    )
    assert len(runs(server, store)) == 5


def test_studies_of_one_name_in_two_folders_leave_each_other_alone(
    store: Store, server: str, tmp_path: Path
) -> None:
    sync(store, "mini", server)
    before = {run.info.run_id for run in runs(server, store).values()}
    other = Store(tmp_path / "other").open()
    record(other)
    write(other, BASE)
    assert sync(other, "mini", server) == 1
    assert {run.info.run_id for run in runs(server, store).values()} == before
    moved = Store(store.root.rename(tmp_path / "moved"))
    assert sync(moved, "mini", server) == 0


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """A file stands where a folder is to be made."""
    folder.write_text("")
    yield
    folder.unlink()


def test_where_no_report_can_be_kept_the_runs_are_there_all_the_same(store: Store) -> None:
    with (
        forbidden(store.root / ".mlflow-artifacts"),
        pytest.raises(TrackingError, match="MLflow cannot keep the report of the study: .*mlflow-artifacts"),
    ):
        sync(store, "mini")
    assert len(runs(destination(store).uri, store)) == 5
    assert "compare" in links(store, "mini")
    assert sync(store, "mini") == 0
    assert artifact(destination(store).uri, runs(destination(store).uri, store)["mini"])


# --- nothing there ----------------------------------------------------------------------------------


class _Broken(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status."""

    status = 500

    def _answer(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>no MLflow</html>")

    do_GET = do_POST = _answer

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def answering(status: int) -> Iterator[str]:
    handler = type("Handler", (_Broken,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{fake.server_port}"
        fake.shutdown()


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_server_that_is_not_well(store: Store, status: int) -> None:
    with (
        answering(status) as uri,
        pytest.raises(TrackingError, match="MLflow cannot use 'http://127.0.0.1") as error,
    ):
        sync(store, "mini", uri)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_server_that_says_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TrackingError, match="(?i)timed out"):
            sync(store, "mini", f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_study_ends_well_without_its_server(tiny: dict[str, Any], tmp_path: Path) -> None:
    study, results, uri = tmp_path / "tiny.yaml", tmp_path / "results", f"http://127.0.0.1:{free_port()}"
    study.write_text(yaml.safe_dump(tiny))
    code, output = call("bound", study, "--results", results, "--tracking-uri", uri)
    assert code == 0
    told = [line for line in output.splitlines() if "MLflow" in line]
    assert "4 cells made, 0 MLflow runs written" in told[0]
    assert f"cannot use '{uri}'" in told[1] and "Connection refused" in told[1]
    assert told[1].endswith(f"harness track tiny --results {results} --tracking-uri {uri}") and len(told) == 2
    _, output = call("bound", study, "--results", results, HARNESS_TRACKING_URI=uri)
    assert output.rstrip().endswith(f"harness track tiny --results {results}")


# --- the database -----------------------------------------------------------------------------------


def test_a_locked_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(store, "mini")
    (store.root / "studies" / ".mini.tracked").unlink()
    monkeypatch.setattr(client, "_BUSY_S", 0.1)
    with closing(sqlite3.connect(store.root / "mlflow.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(TrackingError, match=r"mlflow\.db': database is locked$"):
            sync(store, "mini")
    assert sync(store, "mini") == 0


@pytest.mark.parametrize("damage", ["garbage", "middle", "truncated", "empty"])
def test_a_broken_database_is_told_and_made_again(store: Store, damage: str) -> None:
    sync(store, "mini")
    database = store.root / "mlflow.db"
    content = database.read_bytes()
    half = len(content) // 2
    broken = {
        "garbage": b"no database" * 10_000,
        "truncated": content[:half],
        "empty": b"",
        "middle": content[:8192] + bytes(half) + content[8192 + half :],
    }
    if damage == "middle":
        (store.root / "studies" / ".mini.tracked").unlink(missing_ok=True)
    database.write_bytes(broken[damage])
    if damage != "empty":  # an empty one is a database without tables
        with pytest.raises(TrackingError, match="delete the file, it is made again from the results"):
            sync(store, "mini")
        database.unlink()
    assert sync(store, "mini") == 4


def test_another_process_keeps_the_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_LOCK_S", 0.1)
    with syncing._locked(store), pytest.raises(TrackingError, match=r"kept '.*\.mlflow\.lock' locked"):
        sync(store, "mini")


def test_a_root_that_is_no_local_folder_keeps_its_state_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote = Store("s3://bucket/results")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = state_folder(remote)
    assert folder.parent == tmp_path / "harness" and len(folder.name) == 16
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder(remote).parent == tmp_path / ".local/state/harness"


# --- what is no destination -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host",
        "host:5000",
        "/some/folder",
        "file:///folder",
        "http://",
        "sqlite://",
        "databricks",
        "postgresql://host/x",
        "",
    ],
)
def test_a_bad_uri_is_told_before_any_work(uri: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="the tracking URI should be http://HOST:PORT"):
        destination(Store(tmp_path), uri)
    code, output = call("run", "quick", "--results", tmp_path / "results", "--tracking-uri", uri or "x")
    assert code == 2 and "the tracking URI should be" in output
    assert not (tmp_path / "results").exists()


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    assert str(destination(Store(tmp_path), "http://me:secret@host:5000/")) == "http://host:5000"
