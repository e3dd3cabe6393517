"""A study's runs in MLflow brought up to date with its Parquet files."""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.errors import HarnessError, did_you_mean
from harness.results.store import Store
from harness.tracking import marks, runs, study_run
from harness.tracking.client import connected
from harness.tracking.destination import TrackingError, artifact_folder, destination, selection, state_folder
from harness.tracking.headline import headlines
from harness.tracking.held import PARENT, Owned, Sent
from harness.tracking.marks import Mark
from harness.tracking.runs import CONTENT_VERSION, TrackedStudy, digest
from harness.tracking.study_run import StudyRun

_TABLES = ("training", "evaluation")
_LOCK_S = 60  # another driver may be writing many runs


def get_ready(store: Store, uri: str | None = None) -> None:
    """Do what `sync` does first and what takes it seconds: import MLflow, make the results' own database."""
    with _locked(store), connected(store, destination(store, uri)):
        pass


def sync(
    store: Store,
    study: str,
    uri: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    drawn: Callable[[], StudyRun] | None = None,
) -> int:
    """Bring the study's runs up to date with its Parquet files; returns how many networks' were written.

    Runs made from the same cells stay, others are deleted and made anew; the study's own run, above them,
    gets the report, ``drawn`` where that is being done already. ``progress`` is called with the runs written
    and to write, from none written on. Raises TrackingError where MLflow is away, another HarnessError for an
    unknown study, a damaged file or a ``uri`` that is none.
    """
    to = destination(store, uri)
    record = _record(store, study)
    inputs = study_run.inputs(store, study, record)
    overall = digest(CONTENT_VERSION, to.uri, inputs)
    # Only what lies beside the results is known to be as it was left: a server is asked each time.
    if to.own and marks.is_up_to_date(store, study, to, overall):
        return 0
    found = runs.tracked_study(store, study, _finished(store, record), headlines(store, study))
    wanted = {network.cell: found.digest(network) for network in found.networks}
    selected = selection(store, study, to)
    with _locked(store), connected(store, to) as client:
        if not found.networks:
            client.keep(selected, None, {})
            marks.leave(store, study, to, Mark(overall, [], []))
            return 0
        artifacts = None if to.is_server else artifact_folder(to).as_uri()
        experiment = client.experiment(found.networks[0].dataset, artifacts)
        kept = client.keep(selected, experiment, wanted)
        owned = _owned(store, found)
        above = kept.study or client.studies.make(experiment, owned)
        sent = dict(kept.networks)
        pending = [network for network in found.networks if network.cell not in sent]
        for done, network in enumerate(pending):
            if progress:
                progress(done, len(pending))
            tags = {**owned.tags, "digest": wanted[network.cell], PARENT: above.run}
            sent[network.cell] = client.write(experiment, runs.tracked_run(store, found, network), tags)
        if progress and pending:
            progress(len(pending), len(pending))
        ordered = [sent[cell] for cell in wanted]
        client.share_view(experiment, selected, found.order, found.columns)
        # The report comes after all else, which can be looked at where no report can be kept.
        marks.leave(store, study, to, _mark("", above, ordered))
        if not client.studies.is_up_to_date(above, inputs):
            content = drawn() if drawn else study_run.made(store, study, record)
            above = client.studies.hold(above, owned, inputs, content)
        client.studies.put_below(above, ordered)
        marks.leave(store, study, to, _mark(overall, above, ordered))
    return len(pending)


def _owned(store: Store, found: TrackedStudy) -> Owned:
    times = [int(1000 * store.modified(network.path)) for network in found.networks]
    return Owned({"study": found.name, "owner": store.identity()}, min(times), max(times))


def _record(store: Store, study: str) -> dict[str, Any]:
    """HarnessError for an unknown study."""
    records = store.studies()
    if study not in records:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, records)}")
    return records[study]


def _finished(store: Store, record: Mapping[str, Any]) -> list[str]:
    """Paths of the cells that runs are made from and that are done."""
    files = {path.as_posix() for path in store.files()}
    paths = [cell["path"] for cell in record["cells"] if cell["table"] in _TABLES]
    return [path for path in dict.fromkeys(paths) if path in files]


def _mark(overall: str, above: Sent, ordered: list[Sent]) -> Mark:
    experiments = sorted({run.experiment for run in ordered})
    return Mark(overall, experiments, [run.run for run in ordered], above.run)


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
        while not _take(file.fileno()):
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"another process has kept '{folder / '.mlflow.lock'}' locked for {_LOCK_S} s"
                )
            time.sleep(0.05)
        yield


def _take(file: int) -> bool:
    """Take the lock; False while another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
