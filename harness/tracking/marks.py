"""What the last sync of a study left: a small file beside the results.

From it links are made without MLflow, and a sync with nothing to do ends without it.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.results.store import Store
from harness.results.studies import STUDIES
from harness.tracking.destination import Destination, artifact_folder, database_path, state_folder
from harness.tracking.runs import digest
from harness.tracking.study_run import REPORT


@dataclass(frozen=True)
class Mark:
    """What was sent. ``digest``: of all cells that the runs were made from; ids of experiments and runs.

    ``study``: the id of the study's own run.
    ``number`` and ``bytes`` of the results' own database as it was left, None of other destinations.
    """

    digest: str
    experiments: list[str]
    runs: list[str]
    study: str | None = None
    number: int | None = None
    bytes: int | None = None


def read(store: Store, study: str, to: Destination) -> Mark | None:
    """The study's mark; None where it was not synced to this destination."""
    with suppress(OSError, ValueError, TypeError):
        return Mark(**json.loads(_path(store, study, to).read_text()))
    return None


def leave(store: Store, study: str, to: Destination, mark: Mark) -> None:
    """Keep the mark, with the state of the own database."""
    content = asdict(mark)
    if to.own:
        database = database_path(store).stat()
        content |= {"number": database.st_ino, "bytes": database.st_size}
    path = _path(store, study, to)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def is_up_to_date(store: Store, study: str, to: Destination, digest: str) -> bool:
    """Whether the own database has the runs made from these cells.

    One that was deleted, replaced or cut off since is another file, or smaller.
    """
    mark, path = read(store, study, to), database_path(store)
    if mark is None or mark.digest != digest or mark.bytes is None or not path.exists():
        return False
    if mark.study and not (artifact_folder(to) / mark.study / "artifacts" / REPORT).exists():
        return False
    database = path.stat()
    return database.st_ino == mark.number and database.st_size >= mark.bytes


def forget_own(store: Store) -> None:
    """Remove all marks of an own database that is gone: a new file may have its number."""
    for path in (state_folder(store) / STUDIES).glob(".*.tracked"):
        with suppress(ValueError, AttributeError):
            if json.loads(path.read_text()).get("number") is not None:
                path.unlink()


def _path(store: Store, study: str, to: Destination) -> Path:
    name = f".{study}.tracked" if to.own else f".{study}.{digest(to.uri)[:8]}.tracked"
    return state_folder(store) / STUDIES / name
