"""Workers forked from a process that has imported torch: what they are given, and what ends with what."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cluster import forkserver
from harness.cluster.connection import connect
from harness.study.compute import ComputeSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")

_SAYS = """
import gc, json, os, sys
said = sys.argv[1:], "torch" in sys.modules, os.environ.get("GIVEN"), os.getcwd(), os.getppid()
print(json.dumps([*said, gc.isenabled(), os.getpgrp() == os.getpid(), sys.path[0], __name__]), flush=True)
print("to stderr", file=sys.stderr, flush=True)
"""


def run(command, script, *arguments, **named):
    """What Ray does with its `py_executable`; the worker itself may end later than what started it."""
    words = [*shlex.split(command), str(script), *arguments]
    return subprocess.run(words, timeout=120, **named)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def ends(pid, within_s=60):
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def servers(parent):
    """The fork servers that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_child = int(stat.read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and b"harness.cluster.forkserver" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture
def started():
    """The fork servers that this process has started since: a Ray of other tests may have one."""
    before = servers(os.getpid())
    return lambda: [server for server in servers(os.getpid()) if server not in before]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "a worker.py"
    path.write_text(_SAYS)
    return path


def test_a_fork_is_the_python_that_was_asked_for(script, tmp_path, started):
    """Arguments, environment, folder and streams are its own; torch is there; it is in no group."""
    with forkserver.running() as command:
        (server,) = started()
        environment = {**os.environ, "GIVEN": "ä b"}
        # Its output comes to an end when the worker does, not when what asked for it does.
        told = run(command, script, "a", "b c", env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert told.returncode == 0 and told.stderr == "to stderr\n"
        said = [["a", "b c"], True, "ä b", str(tmp_path), server, True, True, str(tmp_path), "__main__"]
        assert json.loads(told.stdout) == said
        assert alive(server)
    assert not alive(server)
    assert not Path(shlex.split(command)[-1]).parent.exists()


def test_without_a_server_it_is_python_itself(script, started):
    with forkserver.running() as command:
        (server,) = started()
        os.kill(server, signal.SIGKILL)
        told = run(command, script, "a", capture_output=True, text=True)
    assert told.stdout.startswith('[["a"], false, ')


def test_a_fork_finds_what_its_own_path_names(tmp_path):
    """The server may have been started before --code named a folder."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "only_there.py").write_text("word = 'found'")
    script = tmp_path / "script.py"
    script.write_text("import only_there; print(only_there.word)")
    with forkserver.running() as command:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "folder")}
        told = run(command, script, env=environment, capture_output=True, text=True)
    assert told.stdout == "found\n", told.stderr


def test_a_server_started_ahead_is_the_one_that_runs(started, script, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(forkserver, "_has_ray", lambda: False)
    with forkserver.ahead(None):
        (server,) = started()
        with forkserver.running() as command:
            assert started() == [server]
            assert json.loads(run(command, script, capture_output=True, text=True).stdout)[4] == server
        assert not alive(server)
        with forkserver.running():
            (other,) = started()  # the second one has its own
    assert not alive(other)


@pytest.mark.parametrize("workers, address", [(0, None), (None, "10.0.0.1:6379")])
def test_none_is_started_ahead_where_none_will_be_asked_for(started, workers, address, monkeypatch):
    monkeypatch.setattr(forkserver, "_has_ray", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address or "local")
    with forkserver.ahead(workers):
        assert started() == []


def test_one_started_ahead_in_vain_ends(started, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(forkserver, "_has_ray", lambda: False)
    with forkserver.ahead(None):
        (server,) = started()
        with connect(ComputeSpec(workers=0)):  # as the study said
            assert not alive(server)
    with pytest.raises(KeyboardInterrupt), forkserver.ahead(None):
        (server,) = started()
        raise KeyboardInterrupt
    assert not alive(server)


def test_the_server_ends_with_its_driver(tmp_path):
    """However that ends; and its folder goes with it."""
    code = "import sys, time; from harness.cluster import forkserver\n"
    code += "with forkserver.running() as command: print(command, flush=True); time.sleep(600)"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(shlex.split(driver.stdout.readline())[-1]).parent
    (server,) = servers(driver.pid)
    driver.kill()
    driver.wait()
    assert ends(server)
    assert not folder.exists()


def test_workers_end_with_their_driver(tmp_path):
    """Without Ray, which would see to it: one that is at work, after one that has ended."""
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import os, sys, time; print(os.getpid(), flush=True); time.sleep(float(sys.argv[1]))")
    code = "import sys, time; from harness.cluster import forkserver\n"
    code += "with forkserver.running() as command: print(command, flush=True); time.sleep(600)"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    command = driver.stdout.readline()
    with subprocess.Popen(
        [*shlex.split(command), str(sleeper), "0"], stdout=subprocess.PIPE, text=True
    ) as asking:
        ended = int(asking.stdout.readline())
    assert ends(ended)
    with subprocess.Popen(
        [*shlex.split(command), str(sleeper), "600"], stdout=subprocess.PIPE, text=True
    ) as asking:
        working = int(asking.stdout.readline())
        assert alive(working)
        driver.kill()
        driver.wait()
        assert ends(working)  # which would sleep on: the server may be importing when it is told


_HERE = """
import json, os, signal, sys
from pathlib import Path
from harness.cluster.connection import connect
from harness.study.compute import ComputeSpec

def state(value): return value
def asked(state, task): return [os.getpid(), os.getppid(), "torch" in sys.modules]
def killed(state, task):
    if task == 2 and not Path(state).exists():
        Path(state).touch()
        os.kill(os.getpid(), 9)
    return task

with connect(ComputeSpec(workers=1)) as cluster:
    said = []
    for _ in range(2):
        said += dict(cluster.map(state, (0,), asked, [0])).values()
        cluster.release()
    repeated = dict(cluster.map(state, (sys.argv[1],), killed, [0, 1, 2, 3]))
print(json.dumps([os.getpid(), said, sorted(repeated.items())]))
"""


def test_workers_of_a_ray_started_here_are_forked(tmp_path):
    """One that ends takes no other with it, and one that is killed has a successor."""
    environment = {**os.environ, "RAY_ADDRESS": ""}
    command = [sys.executable, "-c", _HERE, str(tmp_path / "killed")]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    _, said, repeated = json.loads(told.stdout.splitlines()[-1])
    (one, server, _), (other, again, _) = said
    assert one != other and server == again != 1
    assert [is_there for _, _, is_there in said] == [True, True]
    assert repeated == [[task, task] for task in range(4)] and (tmp_path / "killed").exists()
    assert ends(server) and ends(other)


def test_in_this_process_alone_there_is_no_server(started):
    with connect(ComputeSpec(workers=0)):
        assert started() == []
