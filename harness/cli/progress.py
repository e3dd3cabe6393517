"""How far a study is: live bars on a terminal, a line a step elsewhere."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_BESIDE_BAR = 80  # columns: a step's name, 15 digits and their unit, two times, and a note of 20 letters
_LINE_EVERY_S = 15.0  # where the output is no terminal, e.g. a log file
_WORKED_S = 0.05  # a step that took less has nothing to say at its end


@dataclass(frozen=True)
class _Begun:
    """A step under way: its bar, and when it began on the monotonic clock."""

    bar: TaskID
    at: float


class Display:
    """Bars for the steps of a run; implements the pipeline's ``Progress``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _bars(console)
        self._steps: dict[str, _Begun] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, step: str, total: int, unit: str, done: int) -> None:
        """A step starts: ``total`` units of work, ``done`` cells found finished."""
        note = f"{done} cells were there" if done else ""
        # A bar of nothing is full.
        bar = self._bars.add_task(
            step, total=max(total, 1), unit=unit, note=note, completed=0 if total else 1
        )
        self._steps[step] = _Begun(bar, time.monotonic())
        work = f"{total} {unit} to do" if total else "nothing to do"
        self._line(step, f"{work}, {note}" if note else work)

    def advance(self, step: str, amount: int = 1, note: str = "") -> None:
        """Some of the step's work is done."""
        task = self._bars.tasks[self._steps[step].bar]
        self._bars.update(task.id, advance=amount, note=note or task.fields["note"])
        if time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._line(step, f"{task.completed:.0f} of {task.total:.0f} {task.fields['unit']} {note}")

    def end(self, step: str) -> None:
        """The step's cells are all written."""
        begun = self._steps[step]
        task = self._bars.tasks[begun.bar]
        seconds = time.monotonic() - begun.at
        worked = task.completed > 0 and seconds > _WORKED_S
        self._bars.update(task.id, completed=task.total)
        if worked:
            self._line(step, f"done in {seconds:.1f} s")

    def _line(self, step: str, text: str) -> None:
        """A line of a log file; a terminal has the bar."""
        if not self._console.is_terminal:
            line = f"{step:<12} {text}".rstrip()
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bars(console: Console) -> Progress:
    """Name, bar, numbers and times of each step; the note has what these leave, and is cut off there."""
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(min(30, max(5, console.width - _BESIDE_BAR))),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", "dim", markup=False, table_column=rest),
        console=console,
        disable=not console.is_terminal,
        expand=True,
    )
