"""The program itself: its exit codes, what it has written when it ends, and that it ends at once."""

import os
import subprocess
import sys

import pytest

_PROGRAM = [sys.executable, "-m", "harness.cli"]
_FULL = "/dev/full"


def ran(*words: str, **named: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*_PROGRAM, *words], capture_output=True, text=True, timeout=120, **named)


def test_exit_codes_and_output_are_those_of_the_command() -> None:
    told = ran("studies")
    assert told.returncode == 0 and told.stdout.splitlines()[0].startswith("cifar10 ")
    told = ran("show", "nothing-of-this-name")
    assert told.returncode == 2 and "no study 'nothing-of-this-name'" in told.stderr and told.stdout == ""
    assert ran("no-such-command").returncode == 2


def test_it_ends_with_its_exit_functions_called_and_its_output_written() -> None:
    """Not as Python does, which would take apart all that was imported: an object's end would be seen."""
    code = """
import atexit, sys, time
from concurrent.futures import ThreadPoolExecutor
from harness.cli import __main__, main
class Kept:
    def __del__(self): print("taken apart")
kept = Kept()
atexit.register(print, "exit function")
def write(): time.sleep(0.5); print("written")
ThreadPoolExecutor(1).submit(write)
sys.stdout.write("no newline: ")
sys.argv = ["harness", "--version"]
__main__.program()
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("no newline: harness, version") and "exit function" in told.stdout
    assert "written" in told.stdout
    assert "taken apart" not in told.stdout


@pytest.mark.skipif(not os.path.exists(_FULL), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_no_success() -> None:
    with open(_FULL, "w") as full:
        told = subprocess.run([*_PROGRAM, "studies"], stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert told.returncode != 0 and b"No space left on device" in told.stderr


def test_a_reader_that_has_enough_is_no_mistake() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        told = subprocess.run([*_PROGRAM, "show", "quick"], stdout=pipe, stderr=subprocess.PIPE, timeout=120)
    assert b"Traceback" not in told.stderr
