"""What is made of the results while a run comes to its end: the cluster is left, MLflow told, beside it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from harness.report.tables.table import Table
    from harness.results.store import Store
    from harness.tracking.study_run import StudyRun


class Ending:
    """The report of a study, drawn in a process, and its tables, laid out in a thread.

    Both from ``begin`` on; nothing of either is left when this context ends.
    """

    def __init__(self, store: "Store", study: str, with_tables: bool) -> None:
        self._store, self._study, self._with_tables = store, study, with_tables
        self._stack = ExitStack()
        self._tables: Future[list[Table]] | None = None
        self.drawn: Callable[[], StudyRun] | None = None  # waits for the report, where it is being drawn

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self) -> None:
        """All cells that the report and the tables show are made."""
        from harness.tracking.study_run import being_made

        self.drawn = self._stack.enter_context(being_made(self._store, self._study))
        if self._with_tables:
            thread = self._stack.enter_context(ThreadPoolExecutor(1))
            self._tables = thread.submit(_laid_out, self._store, self._study)

    def tables(self) -> "list[Table]":
        """Those of the study in the paper's layouts. Raises HarnessError where the results can't be read."""
        return self._tables.result() if self._tables else _laid_out(self._store, self._study)


def _laid_out(store: "Store", study: str) -> "list[Table]":
    from harness.report.database import connect
    from harness.report.tables import laid_out

    with connect(store, study) as connection:
        return laid_out(connection)
