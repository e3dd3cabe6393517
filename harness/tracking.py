"""The results as runs in MLflow: a database beside them, or a server.

Parquet is the truth. Whatever MLflow lost (a deleted database, an empty server) the next `sync` writes
again; while it is away, nothing but the runs is missing. Only the driver writes, under a lock. MLflow
takes more than a second to import, so it is imported where it is used, and not at all where a study's
runs are known to be up to date.
"""

import fcntl
import json
import logging
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from harness import runs
from harness.errors import HarnessError, did_you_mean
from harness.runs import CONTENT_VERSION, HEADLINE, digest
from harness.store import STUDIES, Store

_DATABASE = "mlflow.db"
_BATCH = 900  # MLflow takes 1000 items a call, parameters included
_LOCK_S, _BUSY_S = (
    60,
    5,
)  # another driver may be writing many runs; a database is locked for one run at a time
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What goes wrong is told once, by us, in a line; and `links` are printed where they are asked for.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A pooled connection would go on with a database that was deleted in the meantime.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    # MLflow waits minutes for a server that is gone. The study is done by then: its user waits for nothing else.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class TrackingError(HarnessError):
    """MLflow is away: no result is lost, and a later `sync` sends what is missing."""


@dataclass(frozen=True)
class Destination:
    """Where the runs go: a ``uri`` as MLflow understands it, and whether it is the results' ``own`` database."""

    uri: str
    own: bool

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def file(self) -> Path | None:
        """The file of an sqlite database."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def __str__(self) -> str:
        """The address as it may be shown: without a password."""
        return self.uri.removeprefix("sqlite:///") if self.own else re.sub(r"(?<=://)[^/@]*@", "", self.uri)


def destination(store: Store, uri: str | None = None) -> Destination:
    """The results' own database unless a ``uri`` is given. Raises HarnessError for one that MLflow can't write to."""
    own = f"sqlite:///{database_path(store)}"
    if uri in (None, own):
        return Destination(own, True)
    assert uri is not None
    if urlsplit(uri).scheme in ("http", "https") and urlsplit(uri).netloc:
        return Destination(uri.rstrip("/"), False)
    if not re.match(r"sqlite:///.", uri):
        raise HarnessError(
            f"the tracking URI should be http://HOST:PORT, https://HOST or sqlite:///FILE, got '{uri}'"
        )
    return Destination(uri, False)


def sync(
    store: Store, study: str, uri: str | None = None, progress: Callable[[int, int], None] | None = None
) -> int:
    """Bring the study's runs up to date with its Parquet files; returns how many were written.

    Runs made from the same cells stay, others are deleted and made anew. ``progress`` is called with
    the runs written and to write. Raises TrackingError where MLflow is away, another HarnessError for
    an unknown study, a damaged file or a ``uri`` that is none.
    """
    to, record = destination(store, uri), store.studies()
    if study not in record:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, record)}")
    present = {path.as_posix() for path in store.files()}
    entries = [
        e for e in record[study]["cells"] if e["table"] in ("training", "evaluation") and e["path"] in present
    ]
    overall = digest(CONTENT_VERSION, to.uri, sorted(entry["key"] for entry in entries))
    # Only what lies beside the results is known to be as it was left: a server is asked each time.
    if to.own and _is_marked(store, study, to, overall):
        return 0
    networks = runs.networks(store, [entry["path"] for entry in entries])
    names = runs.metric_names(networks)
    wanted = {network.meta["key"]: network.digest(names) for network in networks}
    with _locked(store), _reaching(to):
        client, owner = _client(store, to), _owner(store, to)
        kept = _keep(client, study, owner, wanted)
        pending = [network for network in networks if network.meta["key"] not in kept]
        experiments: dict[str, str] = {}
        for done, network in enumerate(pending):
            if progress:
                progress(done, len(pending))
            key, dataset = network.meta["key"], network.meta["partition"]["dataset"]
            if dataset not in experiments:
                experiments[dataset] = _experiment(
                    client, dataset, None if to.is_server else artifact_root(store)
                )
            tags = {"study": study, "owner": store.identity(), "digest": wanted[key]}
            kept[key] = (
                experiments[dataset],
                _write(client, experiments[dataset], runs.run(store, network, names), tags),
            )
        if progress and pending:
            progress(len(pending), len(pending))
        used = sorted({experiment for experiment, _ in kept.values()})
        _share_view(client, used, study, owner, names)
        _mark(
            store,
            study,
            to,
            {"digest": overall, "experiments": used, "runs": [kept[key][1] for key in wanted]},
        )
    return len(pending)


def links(
    store: Store, study: str, base_url: str = "http://127.0.0.1:5000", uri: str | None = None
) -> dict[str, str]:
    """Addresses of the study's ``runs`` as a table (best worst case first), as ``charts``, and side by side (``compare``).

    Needs no MLflow. Raises HarnessError where the study was never synced.
    """
    to = destination(store, uri)
    marker, owner = _marker(store, study, to), _owner(store, to)
    if not marker.get("runs"):
        raise HarnessError(
            f"study '{study}' has no runs in MLflow: nothing of it is trained, or it was not synced"
        )
    experiment = f"{base_url}/#/experiments/{marker['experiments'][0]}/runs?"
    # Without the workflow type an experiment opens on an overview of language-model traces.
    machine_learning = {"workflowType": "machine_learning"}
    # The table shows no metric unless it is told to, and that fits in no address: see `_share_view`.
    table = machine_learning | {"viewStateShareKey": _view_name(study, owner)}
    order = {
        "orderByKey": f"metrics.`{HEADLINE}`",
        "orderByAsc": "false",
        "searchFilter": _filter(study, owner),
    }
    charts = machine_learning | {"compareRunsMode": "CHART"} | order
    compare = {
        "runs": json.dumps(marker["runs"]),
        "experiments": json.dumps(marker["experiments"]),
    } | machine_learning
    return {
        "runs": experiment + urlencode(table, quote_via=quote),
        "charts": experiment + urlencode(charts, quote_via=quote),
        "compare": f"{base_url}/#/compare-runs?" + urlencode(compare, quote_via=quote),
    }


def has_runs(store: Store, study: str, uri: str | None = None) -> bool:
    """Whether the last sync of the study left runs: what `links` needs."""
    return bool(_marker(store, study, destination(store, uri)).get("runs"))


# --- MLflow ---


@contextmanager
def _reaching(to: Destination) -> Iterator[None]:
    """Turn the ways in which a server or a database can be away into a TrackingError of one line."""
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # Tune may have imported it before
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        # requests tells the cause last, SQLAlchemy first.
        said = " ".join(str(error).split("(Caused by ")[-1].split("[SQL:")[0].split())
        said = re.sub(r"^\w+\(\W*HTTPS?Connection\w*\(.*?\): ", "", said).strip(" )\"'")
        away = isinstance(error, OSError) or to.is_server or "is locked" in said or "is full" in said
        mend = "" if away or not to.own else "; delete the file, it is made again from the results"
        raise TrackingError(f"MLflow cannot use '{to}': {said[:200]}{mend}") from error


def _client(store: Store, to: Destination) -> Any:
    """A client; under the lock, as its constructor makes and migrates a database."""
    from mlflow import MlflowClient

    database = to.file
    if database and database.exists() and database.stat().st_size:
        _check_database(database)
    elif to.own:
        database = database_path(store)
        # Made under another name: one whose creation was cut off would stay half migrated, and unusable, for ever.
        for left in database.parent.glob(f".{_DATABASE}.*"):
            left.unlink()
        temporary = database.with_name(
            f".{_DATABASE}.{uuid.uuid4().hex}.tmp"
        )  # never twice: MLflow remembers what it made
        try:
            MlflowClient(f"sqlite:///{temporary}")
            for marker in (database.parent / STUDIES).glob(".*.tracked"):
                if b'"file"' in marker.read_bytes():
                    marker.unlink()  # speaks of the database that is gone, whose number the new file may have
            os.replace(temporary, database)
        finally:
            temporary.unlink(missing_ok=True)  # on a full disk
    return MlflowClient(to.uri)


def _check_database(path: Path) -> None:
    """Raise sqlite3.Error where it is locked or broken: SQLAlchemy would try ten times, for two minutes."""
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
        connection.execute("begin immediate")
        (found,) = connection.execute("pragma quick_check(1)").fetchone()
        connection.rollback()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _experiment(client: Any, dataset: str, artifacts: str | None) -> str:
    """The id of the data set's experiment."""
    found = client.get_experiment_by_name(dataset)
    if found is None:
        return str(client.create_experiment(dataset, artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _keep(
    client: Any, study: str, owner: str | None, wanted: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Delete the study's runs that are out of date, unfinished or double; the others: cell -> (experiment, run)."""
    kept: dict[str, tuple[str, str]] = {}
    experiments = [
        experiment.experiment_id
        for experiment in _pages(lambda page: client.search_experiments(page_token=page))
    ]
    found = _pages(
        lambda page: client.search_runs(experiments, _filter(study, owner), max_results=1000, page_token=page)
    )
    for run in found if experiments else []:
        cell = run.data.tags.get("cell", "")
        if (
            cell not in kept
            and wanted.get(cell) == run.data.tags.get("digest")
            and run.info.status == "FINISHED"
        ):
            kept[cell] = (run.info.experiment_id, run.info.run_id)
        else:
            client.delete_run(run.info.run_id)
    return kept


def _pages(call: Callable[[str | None], Any]) -> list[Any]:
    """All items of an answer that MLflow gives page by page."""
    answer = call(None)
    found = list(answer)
    while answer.token:
        answer = call(answer.token)
        found += answer
    return found


def _owner(store: Store, to: Destination) -> str | None:
    """Whose runs to look at where others may keep studies of the same name: None in the results' own database."""
    return None if to.own else store.identity()


def _filter(study: str, owner: str | None) -> str:
    """The study's runs, in MLflow's search language."""
    return f'tags.study = "{study}"' + (f' and tags.owner = "{owner}"' if owner else "")


def _view_name(study: str, owner: str | None) -> str:
    return f"{study}-{owner[:8]}" if owner else study


def _share_view(
    client: Any, experiments: list[str], study: str, owner: str | None, names: Mapping[runs.Attacked, str]
) -> None:
    """Leave the table of a study's runs as MLflow keeps the views that its users share: in a tag of the experiment."""
    metrics = [HEADLINE, "acc/clean", *names.values()]
    view = {
        "searchFilter": _filter(study, owner), "orderByKey": f"metrics.`{HEADLINE}`", "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{name}`" for name in metrics), "params.`k`", "params.`n`"],
    }  # fmt: skip
    for experiment in experiments:
        client.set_experiment_tag(
            experiment, f"mlflow.sharedViewState.{_view_name(study, owner)}", json.dumps(view)
        )


def _write(client: Any, experiment: str, run: runs.Run, tags: Mapping[str, str]) -> str:
    """Write one run and return its id. It counts as there once it is finished, which is said last."""
    from mlflow.entities import Metric, Param

    made = str(
        client.create_run(
            experiment, start_time=run.started, tags={**run.tags, **tags}, run_name=run.name
        ).info.run_id
    )
    metrics, params = (
        [Metric(*metric) for metric in run.metrics],
        [Param(*param) for param in run.params.items()],
    )
    for start in range(0, max(len(metrics), 1), _BATCH):
        client.log_batch(made, metrics[start : start + _BATCH], params if start == 0 else [])
    client.set_terminated(made, end_time=run.ended)
    return made


# --- files ---


def state_folder(store: Store) -> Path:
    """Where the results' own database lies, its lock, and the marks of what was sent: the root, where that is a local folder.

    sqlite and flock need a local folder: for any other root it is one of this user's, named after the root.
    """
    if store.local_root is not None:
        return store.local_root.resolve()
    named = os.environ.get("XDG_STATE_HOME", "")
    state = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    return state / "harness" / digest(str(store.place))[:16]


def database_path(store: Store) -> Path:
    return state_folder(store) / _DATABASE


def artifact_root(store: Store) -> str:
    """Never written, but MLflow insists on a place and would take one in the current folder."""
    return (state_folder(store) / ".mlflow-artifacts").as_uri()


def _marker_path(store: Store, study: str, to: Destination) -> Path:
    return (
        state_folder(store)
        / STUDIES
        / (f".{study}.tracked" if to.own else f".{study}.{digest(to.uri)[:8]}.tracked")
    )


def _marker(store: Store, study: str, to: Destination) -> dict[str, Any]:
    """What the last sync of the study left: digest of its cells, ids of experiments and runs; empty where there is none."""
    with suppress(OSError, ValueError):
        marker: dict[str, Any] = json.loads(_marker_path(store, study, to).read_text())
        return marker
    return {}


def _mark(store: Store, study: str, to: Destination, marker: Mapping[str, Any]) -> None:
    """Leave word of what was sent, for `links`, and of the database that has it."""
    path = _marker_path(store, study, to)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = {"file": _file(database_path(store))} if to.own else {}
    path.write_text(json.dumps({**marker, **file}))


def _is_marked(store: Store, study: str, to: Destination, overall: str) -> bool:
    """Whether the own database has all these runs. One that was deleted, replaced or cut off since is another file, or smaller."""
    marker = _marker(store, study, to)
    if marker.get("digest") != overall or not database_path(store).exists():
        return False
    (number, size), (left_number, left_size) = _file(database_path(store)), marker.get("file", (0, 0))
    return number == left_number and size >= left_size


def _file(path: Path) -> list[int]:
    """Number and bytes of a file."""
    found = path.stat()
    return [found.st_ino, found.st_size]


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One driver at a time: two that make the database at once break it."""
    folder = state_folder(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".mlflow.lock").open("w")
    except OSError as error:
        raise TrackingError(
            f"the folder of MLflow's database, '{folder}', cannot be written: {error.strerror or error}"
        ) from error
    with file:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"another process has kept '{folder / '.mlflow.lock'}' locked for {_LOCK_S} s"
                    ) from None
                time.sleep(0.05)
        yield
