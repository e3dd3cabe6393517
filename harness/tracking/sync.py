"""A study's runs in MLflow brought up to date with its Parquet files."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import HarnessError, did_you_mean
from harness.results.store import Store
from harness.tracking import marks, runs
from harness.tracking.client import Sent, connected
from harness.tracking.destination import TrackingError, artifact_root, destination, selection, state_folder
from harness.tracking.marks import Mark
from harness.tracking.runs import CONTENT_VERSION, HEADLINE, digest

_TABLES = ("training", "evaluation", "check", "certified")
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
    cells = _finished(store, study)
    overall = digest(CONTENT_VERSION, to.uri, sorted(cells))
    # Only what lies beside the results is known to be as it was left: a server is asked each time.
    if to.own and marks.is_up_to_date(store, study, to, overall):
        return 0
    networks = runs.networks(store, list(cells.values()), runs.headlines(store, study))
    names = runs.metric_names(networks)
    wanted = {network.cell: network.digest(names) for network in networks}
    selected = selection(store, study, to)
    with _locked(store), connected(store, to) as client:
        sent = client.keep(selected, wanted)
        pending = [network for network in networks if network.cell not in sent]
        artifacts = None if to.is_server else artifact_root(store)
        experiments: dict[str, str] = {}
        for done, network in enumerate(pending):
            if progress:
                progress(done, len(pending))
            if network.dataset not in experiments:
                experiments[network.dataset] = client.experiment(network.dataset, artifacts)
            tags = {"study": study, "owner": store.identity(), "digest": wanted[network.cell]}
            run = runs.tracked_run(store, network, names)
            sent[network.cell] = client.write(experiments[network.dataset], run, tags)
        if progress and pending:
            progress(len(pending), len(pending))
        mark = _mark(overall, [sent[cell] for cell in wanted])
        judged = dict.fromkeys(metric for network in networks for metric in network.headline.metrics)
        columns = [*judged, HEADLINE, runs.CLEAN, *names.values()]
        client.share_view(mark.experiments, selected, columns)
        marks.leave(store, study, to, mark)
    return len(pending)


def _finished(store: Store, study: str) -> dict[str, str]:
    """The cells that runs are made from and that are done: key -> path. HarnessError for an unknown study."""
    records = store.studies()
    if study not in records:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, records)}")
    files = {path.as_posix() for path in store.files()}
    cells = [cell for cell in records[study]["cells"] if cell["table"] in _TABLES]
    return {cell["key"]: cell["path"] for cell in cells if cell["path"] in files}


def _mark(overall: str, sent: list[Sent]) -> Mark:
    return Mark(overall, sorted({run.experiment for run in sent}), [run.run for run in sent])


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
