"""A study's runs in MLflow brought up to date with its Parquet files."""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from harness.errors import HarnessError, did_you_mean
from harness.results.store import Store
from harness.tracking import marks, runs, study_run
from harness.tracking.client import Client, connected
from harness.tracking.destination import TrackingError, artifact_folder, destination, selection, state_folder
from harness.tracking.headline import headlines
from harness.tracking.held import PARENT, Owned, Sent
from harness.tracking.marks import Mark
from harness.tracking.runs import CONTENT_VERSION, TrackedNetwork, TrackedStudy, digest

_TABLES = ("training", "evaluation")
_LOCK_S = 60  # another driver may be writing many runs


def sync(
    store: Store, study: str, uri: str | None = None, progress: Callable[[int, int], None] | None = None
) -> int:
    """Bring the study's runs up to date with its Parquet files; returns how many were written.

    Runs made from the same cells stay, others are deleted and made anew. ``progress`` is called with the runs
    written and to write, from none written on. Raises TrackingError where MLflow is away, another
    HarnessError for an unknown study, a damaged file or a ``uri`` that is none.
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
        sending = _Sending(store, record, client, found, _owned(store, found), inputs)
        above = kept.study or client.studies.make(experiment, sending.owned)
        pending = [network for network in found.networks if network.cell not in kept.networks]
        is_due = client.studies.is_due(above, inputs)
        advance = _counter(progress, len(pending) + is_due)
        written = {network.cell: sending.network(network, above, wanted, advance) for network in pending}
        ordered = [(kept.networks | written)[cell] for cell in wanted]
        client.share_view(experiment, selected, found.order, found.columns)
        # The report comes after all else, which can be looked at where no report can be kept.
        marks.leave(store, study, to, _mark("", above, ordered))
        above, is_new = sending.report(above, is_due, advance)
        client.studies.put_below(above, ordered)
        marks.leave(store, study, to, _mark(overall, above, ordered))
    return len(pending) + is_new


@dataclass(frozen=True)
class _Sending:
    """A study on its way to MLflow; ``inputs``: the digest of what its report is made from."""

    store: Store
    record: Mapping[str, Any]
    client: Client
    found: TrackedStudy
    owned: Owned
    inputs: str

    def network(
        self, network: TrackedNetwork, above: Sent, wanted: Mapping[str, str], advance: Callable[[], None]
    ) -> Sent:
        """Write a network's run below the study's."""
        tags = {**self.owned.tags, "digest": wanted[network.cell], PARENT: above.run}
        run = runs.tracked_run(self.store, self.found, network)
        sent = self.client.write(above.experiment, run, tags)
        advance()
        return sent

    def report(self, above: Sent, is_due: bool, advance: Callable[[], None]) -> tuple[Sent, bool]:
        """See that the study's own run holds its report; that run, and whether anything was sent."""
        is_new = False
        if is_due or not self.client.studies.has_report(above):
            content = study_run.made(self.store, self.found.name, self.record)
            above, is_new = self.client.studies.hold(above, self.owned, self.inputs, content)
        if is_due:
            advance()
        return above, is_new


def _owned(store: Store, found: TrackedStudy) -> Owned:
    times = [int(1000 * store.modified(network.path)) for network in found.networks]
    return Owned({"study": found.name, "owner": store.identity()}, min(times), max(times))


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    """Say that nothing is done of ``total``, and at each call one more."""
    if progress is None or not total:
        return lambda: None
    progress(0, total)
    counted = count(1)
    return lambda: progress(next(counted), total)


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
