"""Where a study's runs go, which of the runs there are its own, and where the results' own database lies."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import HarnessError
from harness.results.store import Store
from harness.tracking.runs import digest

DATABASE, ARTIFACTS = "mlflow.db", ".mlflow-artifacts"


class TrackingError(HarnessError):
    """MLflow is away: no result is lost, and a later `sync` sends what is missing."""


@dataclass(frozen=True)
class Destination:
    """Where the runs go: a ``uri`` as MLflow understands it; whether it is the results' ``own`` database."""

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
    """The results' own database unless a ``uri`` is given.

    Raises HarnessError for one that MLflow can't write to.
    """
    own = f"sqlite:///{database_path(store)}"
    if uri is None or uri == own:
        return Destination(own, True)
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.netloc:
        return Destination(uri.rstrip("/"), False)
    if not re.match(r"sqlite:///.", uri):
        raise HarnessError(
            f"the tracking URI should be http://HOST:PORT, https://HOST or sqlite:///FILE, got '{uri}'"
        )
    return Destination(uri, False)


@dataclass(frozen=True)
class Selection:
    """The runs of one study. ``owner``: whose they are, where others may keep studies of the same name."""

    study: str
    owner: str | None

    @property
    def filter(self) -> str:
        """As MLflow searches for them."""
        owned = f' and tags.owner = "{self.owner}"' if self.owner else ""
        return f'tags.study = "{self.study}"{owned}'

    @property
    def networks(self) -> str:
        """As MLflow searches for those of networks, without the study's own."""
        return f'{self.filter} and tags.kind = "network"'

    @property
    def view(self) -> str:
        """The name of the table that MLflow shows of them."""
        return f"{self.study}-{self.owner[:8]}" if self.owner else self.study


def selection(store: Store, study: str, to: Destination) -> Selection:
    """A study's runs at a destination: the results' own database has no others' runs."""
    return Selection(study, None if to.own else store.identity())


# --- files ------------------------------------------------------------------------------------------


def state_folder(store: Store) -> Path:
    """Where the results' own database lies, its lock, and the marks of what was sent.

    The root where that is a local folder, which sqlite and flock need; for any other root a folder of this
    user's, named after the root.
    """
    if store.local_root is not None:
        return store.local_root.resolve()
    named = os.environ.get("XDG_STATE_HOME", "")
    state = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    return state / "harness" / digest(str(store.place))[:16]


def database_path(store: Store) -> Path:
    return state_folder(store) / DATABASE


def artifact_folder(to: Destination) -> Path:
    """Where reports lie that no server keeps: beside the database."""
    assert to.file is not None, "a server has a place of its own"
    return to.file.resolve().parent / ARTIFACTS
