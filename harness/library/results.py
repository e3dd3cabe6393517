"""``harness.open``: finished studies as data frames, through SQL that only reads."""

import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness.errors import HarnessError, did_you_mean
from harness.report.database import connect, query
from harness.results.store import Store

if TYPE_CHECKING:
    import pandas as pd


class Results:
    """The results of studies as they were when they were opened: tables and views that SQL can name.

    harness/report/views/ has the views, harness/results/records.py every column of the tables. Use it in a
    ``with``, or close it; what is still open when Python ends is closed then.
    """

    def __init__(self, folder: str | Path, study: str | None) -> None:
        """Called through ``open``, which see."""
        self._connection = connect(Store(folder), study)
        self._name = str(folder)
        # DuckDB's threads must end before the interpreter does.
        self._end = weakref.finalize(self, self._connection.close)

    def sql(self, statement: str) -> "pd.DataFrame":
        """The answer to one statement that reads.

        A column of integers with nulls comes as float64 with NaN, as pandas has it. Raises HarnessError for
        any other statement, for an error in it, and where the results were closed.
        """
        self._check_open()
        # No Arrow thread may hold an object of Python's when the interpreter ends.
        frame: pd.DataFrame = query(self._connection, statement).to_pandas(use_threads=False)
        return frame

    def tables(self) -> list[str]:
        """The names of all tables and views, sorted."""
        self._check_open()
        return sorted(query(self._connection, "show tables")["name"].to_pylist())

    def table(self, name: str) -> "pd.DataFrame":
        """All rows of a table or view; HarnessError for one that is not there."""
        known = self.tables()
        if name not in known:
            raise HarnessError(f"no table '{name}'{did_you_mean(name, known)}")
        return self.sql(f'from "{name}"')

    def studies(self) -> list[str]:
        """The names of the studies, sorted."""
        self._check_open()
        return sorted(query(self._connection, "select study from studies")["study"].to_pylist())

    def close(self) -> None:
        """Let go of the files; twice is no error."""
        self._end()

    def _check_open(self) -> None:
        if not self._end.alive:
            raise HarnessError(f"the results in '{self._name}' were closed: open them again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harness results in '{self._name}'{'' if self._end.alive else ', closed'}>"


def open(folder: str | Path = "results", study: str | None = None) -> Results:
    """The results in a folder, or an object store (s3://BUCKET/PREFIX): of all studies, or of one.

    ``study`` is its name. Imports neither torch nor Ray, and reads no code and no settings of the study's.

    Raises HarnessError for a folder without results, results of another version, an unknown study, and files
    that cannot be read.
    """
    return Results(folder, study)
