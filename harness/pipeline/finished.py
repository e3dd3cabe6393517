"""What a finished run leaves behind, so that the same command sees in no time that nothing is to be done.

To know a study's cells it must be planned, which imports torch and reads the data: seconds. A note says which
record of a study was planned from what: settings, data, code and versions. Where all that is as it was, the
record is what planning would find again, and its cells are looked up as ever. Nothing rests on a note:
without one, the study is planned.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.pipeline.steps import STEPS
from harness.results.cells import hardware
from harness.results.store import Store
from harness.results.studies import STUDIES

if TYPE_CHECKING:
    from harness.pipeline.run import Run
    from harness.study.spec import Study

_PACKAGE = Path(__file__).parents[1]
_PLANNED_BY = (".py", ".yaml", ".csv")  # modules, presets, and the tables from which costs are told
_WHERE_WEIGHTS_LIE = ("TORCH_HOME", "XDG_CACHE_HOME", "HOME")
# The state of a file, by which an edit is seen without reading it: no program sets the last, a change's time.
_State = tuple[int, int, int, int]


@dataclass(frozen=True)
class Finished:
    """A study of which nothing is to be done: its name, and how many cells each step has."""

    study: str
    cells: Mapping[str, int]


def given(study: str, changes: Iterable[str], data: Path | None) -> str:
    """A digest of what a command gives, and of all code that plans: equal ones plan the same."""
    digest = hashlib.sha256()
    named = Path(study)
    with suppress(OSError):
        digest.update(named.read_bytes() if named.is_file() else b"a preset")
    where = [os.environ.get(name) for name in _WHERE_WEIGHTS_LIE]
    words = [study, list(changes), str(data), str(Path.cwd()), where, platform.python_version()]
    digest.update(json.dumps([words, _versions()]).encode())
    for path in sorted(path for path in _PACKAGE.rglob("*") if path.suffix in _PLANNED_BY):
        digest.update(f"\n{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """Of the packages that planning uses: what reads settings and data, and what cells are made with."""
    there: dict[str, str] = dict(hardware()["versions"])
    for name in ("pillow", "pydantic", "scikit-learn"):
        with suppress(PackageNotFoundError):
            there[name] = version(name)
    return there


def find(store: Store, digest: str, steps: Iterable[str]) -> Finished | None:
    """The study that was planned from what has this digest, if all cells of these steps are there.

    None where that can't be told.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        if store.local_root is None:
            return None
        note = json.loads(_path(store.local_root, digest).read_text())
        payload = _record(store.local_root, note["study"])
        states = {path: _state(Path(path)) for path in note["files"]}
        if _sha256(payload) != note["record"] or states != _states(note["files"]):
            return None
        cells = json.loads(payload)["cells"]
        steps = set(steps)
        mine = [cell for cell in cells if cell["step"] in steps]
        if all(store.is_whole(Path(cell["path"]), cell["key"]) for cell in mine):
            counts = {step.name: sum(cell["step"] == step.name for cell in mine) for step in STEPS}
            return Finished(note["study"], {step: count for step, count in counts.items() if count})
    return None


def files(study: "Study", data: Path | None) -> dict[str, _State] | None:
    """The files that a study is planned from, beside its own, as they are before that.

    None where that can't be told: one is not there yet.
    """
    from harness.data import datasets

    with suppress(OSError, HarnessError):
        weights = [one.initial_file() for one in (study.network, *study.models.values())]
        paths = [*datasets.expected_files(study.dataset, data), *filter(None, weights)]
        return {str(path.absolute()): _state(path) for path in paths}
    return None


def leave(run: "Run", digest: str, planned_from: Mapping[str, _State] | None) -> None:
    """Note that the study's record was planned from what has this digest, and from these files."""
    root, study = run.store.local_root, run.study.name
    # Code from outside is looked at each time.
    if root is None or planned_from is None or run.failed or run.plan.code or not run.knows_networks:
        return
    with suppress(OSError):  # a note is no result
        if planned_from != {path: _state(Path(path)) for path in planned_from}:
            return
        forget(root, study)
        record = _sha256(_record(root, study))
        note = {"study": study, "record": record, "files": dict(planned_from)}
        _path(root, digest).write_text(json.dumps(note))


def forget(root: Path, study: str) -> None:
    """Remove the study's notes: each was made from something else than the next."""
    for path in (root / STUDIES).glob(".*.finished"):
        with suppress(ValueError, AttributeError):
            if json.loads(path.read_text()).get("study") == study:
                path.unlink(missing_ok=True)


def _path(root: Path, digest: str) -> Path:
    return root / STUDIES / f".{digest[:16]}.finished"


def _record(root: Path, study: str) -> bytes:
    return (root / STUDIES / f"{study}.json").read_bytes()


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _state(path: Path) -> _State:
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _states(noted: Mapping[str, Any]) -> dict[str, _State]:
    """As JSON has them, tuples again."""
    return {path: tuple(state) for path, state in noted.items()}
