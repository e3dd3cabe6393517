"""The pages of docs/ as programs: their blocks of code are files, their consoles are commands to be run.

A block whose fence has ``title="mine/attack.py"`` is that file, in a folder of the test's own outside the
checkout. In a ``console`` block a line that begins with ``$`` is a command, which lines with ``>`` go on;
the others after it are what it prints, where ``...`` stands for any lines. A command ends with exit code 0
unless ``echo $?`` follows.

``python tests/pages.py docs/PAGE.md`` prints what the commands of a page print now.
"""

import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness

ROOT = Path(harness.__file__).parents[1]
_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_VARIES = re.compile(
    r"\b[0-9a-f]{8,64}\b"  # digests
    r"|\d{4}-\d\d-\d\dT[\d:+]+"
    r"|\d+(?:\.\d+)? s\b"
    r"|\d+\.\d+"  # what is measured: its last digit is the hardware's
)
# Imported once by the process that all commands are forked from: torch and MLflow take seconds.
_PRELOADED = ["harness.cli", "harness.pipeline.run", "harness.study.reading", "harness.tracking.client"]


@dataclass(frozen=True)
class File:
    """A file that the reader is to write."""

    path: str
    content: str


@dataclass(frozen=True)
class Command:
    """A command, and the lines that the page shows of its output."""

    line: str
    shown: tuple[str, ...]


def blocks(text: str) -> Iterator[File | Command]:
    """What a reader of a page does, in order."""
    for kind, title, content in _FENCE.findall(text):
        if kind == "console":
            yield from _commands(content)
        elif title:
            yield File(title, content)


def _commands(content: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip().splitlines()
        while shown and shown[0].startswith("> "):
            line = f"{line}\n{shown.pop(0).removeprefix('> ')}".replace("\\\n", " ")
        yield Command(line, tuple(shown))


def call(line: str, folder: Path) -> tuple[int, str]:
    """Exit code and all output of a command typed in ``folder``, as of an installed harness."""
    if line.startswith("harness "):
        return _forked(shlex.split(line)[1:], folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def _forked(arguments: list[str], folder: Path) -> tuple[int, str]:
    """``harness ARGUMENTS`` in a process that has imported what all of them import, and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.NamedTemporaryFile("r") as output:
        process = context.Process(target=_command, args=(arguments, str(folder), output.name))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, output.read()


def _command(arguments: list[str], folder: str, output: str) -> None:
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    # Found where it is installed, not beside what the tests import.
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path and "tests" not in Path(path).parts)]
    for name in ("HARNESS_DATA", "HARNESS_RESULTS", "HARNESS_TRACKING_URI"):
        os.environ.pop(name, None)
    os.environ["COLUMNS"] = "110"
    from harness.cli import main

    main(arguments)


def fits(shown: tuple[str, ...], printed: str) -> bool:
    """Whether a command printed what its page shows, but for times, digests and fractions."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in _alike(shown))
    return bool(re.fullmatch(pattern, "".join(f"{line}\n" for line in _alike(printed.splitlines()))))


def _alike(lines: Iterator[str] | tuple[str, ...] | list[str]) -> list[str]:
    """Lines without what varies, nor the blanks and rules that go with its width; empty ones left out."""
    found = [re.sub(r"─+", "─", _VARIES.sub("#", line)) for line in lines]
    return [" ".join(line.split()) for line in found if line.strip()]


def follow(text: str, folder: Path) -> Iterator[tuple[Command, int, str]]:
    """Write the page's files and run its commands, in order: each command, its exit code and its output."""
    code = 0
    for block in blocks(text):
        if isinstance(block, File):
            (folder / block.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.path).write_text(block.content)
            continue
        if block.line == "echo $?":
            yield block, 0, f"{code}\n"
            continue
        code, printed = call(block.line, folder)
        yield block, code, printed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for command, code, printed in follow(Path(sys.argv[1]).read_text(), Path(temporary)):
            same = "as shown" if fits(command.shown, printed) else "NOT as shown"
            print(f"$ {command.line}    [exit code {code}, {same}]\n{printed}")
