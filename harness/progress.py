"""How far a study is: live bars on a terminal, a line a step elsewhere."""

import time
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


class Display:
    """Bars for the steps of a run; implements ``pipeline.Progress``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # The note has what the others leave, and is cut off there: the numbers count.
        note = TextColumn(
            "{task.fields[note]}",
            "dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        )
        self._bars = Progress(
            TextColumn("{task.description:<12}"), BarColumn(min(30, max(5, console.width - _BESIDE_BAR))), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True), note,
            console=console, disable=not console.is_terminal, expand=True,
        )  # fmt: skip
        self._tasks: dict[str, tuple[TaskID, float]] = {}
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
        self._tasks[step] = (
            self._bars.add_task(step, total=max(total, 1), unit=unit, note=note, completed=0 if total else 1),
            time.monotonic(),
        )
        if not self._console.is_terminal:
            self._line(
                f"{step:<12} {f'{total} {unit} to do' if total else 'nothing to do'}{f', {note}' if note else ''}"
            )

    def advance(self, step: str, amount: int = 1, note: str = "") -> None:
        """Some of the step's work is done."""
        task, _ = self._tasks[step]
        bar = self._bars.tasks[task]
        self._bars.update(task, advance=amount, note=note or bar.fields["note"])
        if not self._console.is_terminal and time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._line(f"{step:<12} {bar.completed:.0f} of {bar.total:.0f} {bar.fields['unit']} {note}")

    def end(self, step: str) -> None:
        """The step's cells are all written."""
        task, began = self._tasks[step]
        worked = self._bars.tasks[task].completed > 0 and time.monotonic() - began > 0.05
        self._bars.update(task, completed=self._bars.tasks[task].total)
        if not self._console.is_terminal and worked:
            self._line(f"{step:<12} done in {time.monotonic() - began:.1f} s")

    def _line(self, text: str) -> None:
        self._console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
