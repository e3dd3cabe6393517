"""A clock that is put back under a Ray that was started here: it is seen, and another Ray goes on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from conftest import run_study, snapshot

from harness.cluster import clock
from harness.cluster.clock import watched
from harness.errors import StartAgain


@pytest.fixture
def offset(monkeypatch):
    """Seconds by which the wall clock is set; looked at a hundred times a second."""
    seconds = [0.0]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    monkeypatch.setattr(clock, "_LOOK_S", 0.01)
    monkeypatch.setattr(clock, "_ahead_s", lambda: 1e9 + seconds[0])
    yield seconds
    signal.signal(signal.SIGINT, before)


def wait_until_stopped() -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.05)
    raise AssertionError("not interrupted")


def test_a_clock_put_back_interrupts_and_says_by_how_much(offset):
    before = signal.getsignal(signal.SIGURG)
    with pytest.raises(StartAgain, match="put back by 3600 s"), watched():
        offset[0] = -3600
        wait_until_stopped()
    assert signal.getsignal(signal.SIGURG) == before
    assert "clock" not in [thread.name for thread in threading.enumerate()]


def test_a_clock_put_forward_and_back_again_interrupts_too(offset):
    with pytest.raises(StartAgain), watched():
        offset[0] = 3600
        time.sleep(0.2)
        offset[0] = 0
        wait_until_stopped()


@pytest.mark.parametrize("by_s", [3600, -20])
def test_a_clock_put_forward_or_little_back_is_let_be(offset, by_s):
    with watched():
        offset[0] = by_s
        time.sleep(0.3)


def test_ctrl_c_stays_ctrl_c(offset):
    with pytest.raises(KeyboardInterrupt), watched():
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_interrupted_work_is_left_is_kept(offset):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), watched():
        offset[0] = -3600
        try:
            wait_until_stopped()
        finally:
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_is_being_left_is_not_interrupted(offset):
    with watched() as watch:
        assert watch is not None
        watch.end()
        offset[0] = -3600
        time.sleep(0.3)


def test_an_interrupt_that_python_dropped_comes_again(offset, monkeypatch):
    monkeypatch.setattr(clock, "_AGAIN_S", 0.05)
    with pytest.raises(StartAgain), watched():
        offset[0] = -3600
        try:
            wait_until_stopped()
        except KeyboardInterrupt:
            wait_until_stopped()


def test_other_threads_are_let_be(offset):
    seen = []

    def work() -> None:
        with watched() as watch:
            seen.append(watch)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


_STOPPED_WHILE_STARTING = """
import os
import signal
import sys
import click
from harness.cli import group
from harness.errors import StartAgain


@click.command()
def work():
    if len(sys.argv) == 1:
        sys.exit("not stopped")
    raise StartAgain("the clock was put back")


signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
execv = os.execv
os.execv = lambda path, words: (os.kill(os.getpid(), int(sys.argv[1])), execv(path, words[:-1]))
group.main.add_command(work)
group.main(["work"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_while_a_command_starts_again_ends_it(number, code):
    told = subprocess.run(
        [sys.executable, "-c", _STOPPED_WHILE_STARTING, str(number.value)], capture_output=True, text=True
    )
    assert (told.returncode, told.stderr.count("starting again"), "Traceback" in told.stderr) == (
        code,
        1,
        False,
    )
    assert "stopped" in told.stderr


_PUT_BACK = """
import os
import sys
from pathlib import Path
from harness.cli.group import main
from harness.cli.progress import Display
from harness.cluster import clock

once, advance = Path(sys.argv.pop(1)), Display.advance


def put_back(display, step, amount=1, note=""):
    advance(display, step, amount, note)
    if step == "base-network" and not once.exists():
        once.touch()
        clock._ahead_s = lambda: -3600.0


clock._LOOK_S = 0.05
clock._ahead_s = lambda: 0.0
Display.advance = put_back
import harness.cli
main(["run", *sys.argv[1:]])
"""


@pytest.mark.ray
def test_a_command_starts_again_with_another_ray(tmp_path, tiny):
    """In its first process the clock seems to be put back in mid-training; what follows is a second one."""
    tiny["base"]["epochs"] = 30  # some more after the first
    tiny |= {"defenses": {}, "attacks": {"fgsm": {"epsilon": [0.1]}}}  # it is about the base network
    tiny["compute"] = {"workers": 2, "checkpoint_s": 0}
    (study := tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    script = [sys.executable, "-c", _PUT_BACK, str(tmp_path / "once"), str(study)]
    told = subprocess.run(
        [*script, "--results", str(tmp_path / "put back")],
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "starting again: the clock was put back by 3600 s" in told.stderr
    assert "stopped" not in told.stderr
    run_study(tiny, tmp_path / "undisturbed", compute={"workers": 0})
    assert snapshot(tmp_path / "put back") == snapshot(tmp_path / "undisturbed")
