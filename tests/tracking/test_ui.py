"""MLflow's server as a child: it answers, its mistakes are told, and nothing of it is left behind."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mini_study import BASE, record, write

from harness.errors import HarnessError
from harness.results.store import Store
from harness.tracking import ui
from harness.tracking.sync import sync

SERVE = (
    "import sys; from pathlib import Path\n"
    "from harness.results.store import Store; from harness.tracking.ui import serve\n"
    "serve(Store(Path(sys.argv[1])), int(sys.argv[2]), "
    "on_ready=lambda links: print(links['mini']['runs'], flush=True))"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study of which one network is trained, with its run in MLflow."""
    store = Store(tmp_path_factory.mktemp("results 100%")).open()
    record(store)
    write(store, BASE)
    assert sync(store, "mini") == 1
    return store


def test_mistakes_are_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="harness run STUDY"):
        ui.serve(Store(tmp_path).open())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HarnessError, match="choose another with --port"):
            ui.serve(store, port=taken.getsockname()[1])


def test_the_server_answers_and_leaves_nothing_behind(store: Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(store.root), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline().startswith(f"http://127.0.0.1:{port}/#/experiments/")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert b"MLflow" in answer.read()
        finally:
            server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=30)
    assert (server.returncode, *rest) == (0, "", "")
    with socket.socket() as gone, pytest.raises(ConnectionRefusedError):
        gone.connect(("127.0.0.1", port))
