"""One driver a study; what a killed process was writing is removed, what a living one writes is not."""

import os
import signal
import subprocess
import sys

from harness.results import locking

HOLD = """
import sys
from pathlib import Path
from harness.results import locking
root = Path(sys.argv[1])
with locking.only_driver(root, sys.argv[2], lambda words: print(words, flush=True)):
    locking.temporary(root / "cell.parquet").write_bytes(b"half")
    locking.scratch(root).mkdir()
    print("holds", flush=True)
    sys.stdin.read()
"""


def hold(root, study):
    command = [sys.executable, "-c", HOLD, str(root), study]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_driver_of_a_study_waits_and_says_for_whom(tmp_path):
    with hold(tmp_path, "a") as first:
        assert first.stdout.readline() == "holds\n"
        with hold(tmp_path, "a") as second, hold(tmp_path, "b") as other:
            assert other.stdout.readline() == "holds\n"
            said = second.stdout.readline()
            assert f"study 'a' is being run on these results by process {first.pid} on " in said
            os.kill(first.pid, signal.SIGKILL)
            assert second.stdout.readline() == "holds\n"
            for process in (second, other):
                process.stdin.close()


def test_only_what_ended_processes_were_writing_is_removed(tmp_path):
    with hold(tmp_path, "a") as living:
        assert living.stdout.readline() == "holds\n"
        with hold(tmp_path, "b") as killed:
            assert killed.stdout.readline() == "holds\n"
            os.kill(killed.pid, signal.SIGKILL)
        assert len(list(tmp_path.glob(".*.tmp"))) == 4
        (tmp_path / ".of-others.tmp").write_bytes(b"")
        locking.remove_abandoned(tmp_path)
        left = list(tmp_path.glob(".*-*.tmp"))
        assert len(left) == 3
        assert sum(f"-{living.pid}-" in path.name for path in left) == 2
        living.stdin.close()


def test_an_abandoned_file_of_another_machine_is_left_a_week(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_machine", lambda: "0" * 8)
    young, old = (locking.temporary(tmp_path / name) for name in ("young", "old"))
    monkeypatch.undo()
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    locking.remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [young]
