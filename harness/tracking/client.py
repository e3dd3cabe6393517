"""All that is said to MLflow, which is imported here alone, and only when there is something to say.

Its import takes more than a second.
"""

import json
import logging
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results.store import Store
from harness.tracking import marks
from harness.tracking.destination import (
    ARTIFACTS,
    DATABASE,
    Destination,
    Selection,
    TrackingError,
    artifact_folder,
    database_path,
)
from harness.tracking.held import NETWORK, PARENT, STUDY, Sent, StudyRuns
from harness.tracking.runs import TrackedRun

_BATCH = 900  # MLflow takes 1000 items a call, parameters included
_PAGE = 1000  # runs of a search
_BUSY_S = 5  # a database is locked for one run at a time
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What goes wrong is told once, by us, in a line; and links are printed where they are asked for.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A pooled connection would go on with a database that was deleted in the meantime.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    # MLflow waits minutes for a server that is gone. The study is done by then, and its user waits for this.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class Kept:
    """What MLflow has of a study: the runs of its networks, by cell, and its own."""

    networks: dict[str, Sent]
    study: Sent | None


class Client:
    """Experiments and runs at a destination. Made by `connected`; each call may fail as that says."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._mlflow = MlflowClient(uri)
        self.studies = StudyRuns(self._mlflow)

    def experiment(self, dataset: str, artifacts: str | None) -> str:
        """The id of the data set's experiment, which is made or restored where it is not there."""
        there = self._mlflow.get_experiment_by_name(dataset)
        if there is None:
            return str(self._mlflow.create_experiment(dataset, artifacts))
        if there.lifecycle_stage == "deleted":
            self._mlflow.restore_experiment(there.experiment_id)
        return str(there.experiment_id)

    def keep(self, selected: Selection, experiment: str | None, wanted: Mapping[str, str]) -> Kept:
        """Delete the study's runs that are out of date, unfinished or double; the others.

        ``wanted``: cell -> digest of all that its run is made from. The study's own run stays in its
        ``experiment``.
        """
        kept: dict[str, Sent] = {}
        study = None
        for run in self._runs(selected):
            tags = run.data.tags
            sent = Sent(run.info.experiment_id, run.info.run_id, tags.get(PARENT))
            cell = tags.get("cell", "")
            is_whole = run.info.status == "FINISHED" and tags.get("digest") == wanted.get(cell, "")
            is_here = sent.experiment == experiment
            if tags.get("kind") == STUDY and is_here and study is None:
                study = sent
            elif tags.get("kind") == NETWORK and is_whole and cell not in kept:
                kept[cell] = sent
            else:
                self._mlflow.delete_run(sent.run)
        return Kept(kept, study)

    def _runs(self, selected: Selection) -> list[Any]:
        """The study's runs in all experiments."""
        experiments = _pages(lambda page: self._mlflow.search_experiments(page_token=page))
        ids = [experiment.experiment_id for experiment in experiments]
        if not ids:
            return []

        def search(page: str | None) -> Any:
            return self._mlflow.search_runs(ids, selected.filter, max_results=_PAGE, page_token=page)

        return _pages(search)

    def write(self, experiment: str, run: TrackedRun, tags: Mapping[str, str]) -> Sent:
        """Write one run. It counts as there once it is finished, which is said last."""
        from mlflow.entities import Metric, Param

        tags = {**run.tags, **tags, "kind": NETWORK}
        made = self._mlflow.create_run(experiment, start_time=run.started, tags=tags, run_name=run.name)
        number = str(made.info.run_id)
        params = [Param(name, value) for name, value in run.params.items()]
        metrics = [Metric(point.name, point.value, point.time, point.step) for point in run.metrics]
        self._mlflow.log_batch(number, metrics[:_BATCH], params)
        for start in range(_BATCH, len(metrics), _BATCH):
            self._mlflow.log_batch(number, metrics[start : start + _BATCH])
        self._mlflow.set_terminated(number, end_time=run.ended)
        return Sent(experiment, number, tags.get(PARENT))

    def share_view(self, experiment: str, selected: Selection, order: str, metrics: Sequence[str]) -> None:
        """Leave a study's networks, the highest first by ``order``, as a view that MLflow's users share.

        It shows these metrics, k and n, and the checks' verdict; in charts all networks instead of ten.
        MLflow keeps views as tags of the experiment.
        """
        columns = [f"metrics.`{name}`" for name in metrics]
        columns += ["params.`k`", "params.`n`", "tags.`verdict`"]
        view = {
            "searchFilter": selected.networks,
            "orderByKey": f"metrics.`{order}`",
            "orderByAsc": False,
            "selectedColumns": columns,
            "runsHiddenMode": "SHOWALL",
        }
        tag = f"mlflow.sharedViewState.{selected.view}"
        self._mlflow.set_experiment_tag(experiment, tag, json.dumps(view))


def _pages(call: Callable[[str | None], Any]) -> list[Any]:
    """All items of an answer that MLflow gives page by page."""
    answer = call(None)
    items = list(answer)
    while answer.token:
        answer = call(answer.token)
        items += answer
    return items


# --- reaching it ------------------------------------------------------------------------------------


@contextmanager
def connected(store: Store, to: Destination) -> Iterator[Client]:
    """A client; under the lock, as making one makes and migrates a database.

    The ways in which a server or a database can be away become a TrackingError of one line, until the context
    ends.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # Tune may have imported it before
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _prepare_database(store, to)
        yield Client(to.uri)
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        raise TrackingError(_words(error, to)) from error


def _words(error: Exception, to: Destination) -> str:
    """What went wrong, in one line; and what to do where nothing but the file is at fault."""
    # requests tells the cause last, SQLAlchemy first.
    cause = str(error).split("(Caused by ")[-1].split("[SQL:")[0]
    line = " ".join(cause.split())
    line = re.sub(r"^\w+\(\W*HTTPS?Connection\w*\(.*?\): ", "", line).strip(" )\"'")
    is_away = isinstance(error, OSError) or to.is_server or "is locked" in line or "is full" in line
    mend = "; delete the file, it is made again from the results" if to.own and not is_away else ""
    return f"MLflow cannot use '{to}': {line[:200]}{mend}"


def _prepare_database(store: Store, to: Destination) -> None:
    """See that a database is whole; make the results' own where there is none."""
    database = to.file
    if database and database.exists() and database.stat().st_size:
        _check_database(database)
        if to.own:
            _move_artifacts(database, artifact_folder(to).as_uri())
    elif to.own:
        _make_database(store)


def _check_database(path: Path) -> None:
    """Raise sqlite3.Error where it is locked or broken: SQLAlchemy would try ten times, for two minutes."""
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
        connection.execute("begin immediate")
        (verdict,) = connection.execute("pragma quick_check(1)").fetchone()
        connection.rollback()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _move_artifacts(path: Path, root: str) -> None:
    """Point a database that moved with its folder, or was copied, to the files beside it.

    MLflow keeps absolute addresses of them, and has no way to change one.
    """
    columns = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection, connection:
        for table, column in columns:
            place = f"instr({column}, '/{ARTIFACTS}')"
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, {place} + ?) "
                f"where {place} > 0 and substr({column}, 1, ?) <> ?",
                (root, len(ARTIFACTS) + 1, len(root), root),
            )


def _make_database(store: Store) -> None:
    """The results' own database, without runs.

    Made under another name: one whose creation was cut off would stay half migrated, and unusable, for ever.
    """
    database = database_path(store)
    for left in database.parent.glob(f".{DATABASE}.*"):
        left.unlink()
    # A name that is never used twice: MLflow remembers what it made.
    temporary = database.with_name(f".{DATABASE}.{uuid.uuid4().hex}.tmp")
    try:
        Client(f"sqlite:///{temporary}")
        marks.forget_own(store)
        os.replace(temporary, database)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk
