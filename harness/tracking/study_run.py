"""A study's own run: its report and figures as files, made from the results alone.

What draws is imported only where something is to be made.
"""

import gc
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.report.database import connect
from harness.results.cells import own_version
from harness.results.store import Store
from harness.tracking.runs import CONTENT_VERSION, digest

if TYPE_CHECKING:
    from harness.report.figures.drawing import Drawing

REPORT, FIGURES = "report.html", "figures"
_PLACE = "HARNESS_RESULTS"  # of the results, for the process that draws


@dataclass(frozen=True)
class StudyRun:
    """What a study's own run says and holds: ``note`` in Markdown, ``files`` by their paths."""

    note: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Of every byte."""
        contents = {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}
        return digest(self.note, contents)


def inputs(store: Store, study: str, record: Mapping[str, Any]) -> str:
    """A digest of all that the report is made from: the study's record, done cells, failures, our code."""
    files = {path.as_posix() for path in store.files()}
    failures = store.failures()
    paths = [cell["path"] for cell in record["cells"]]
    done = [path for path in paths if path in files]
    failed = {path: failures[path] for path in paths if path in failures}
    return digest(CONTENT_VERSION, study, record, done, failed, own_version(), _code())


def made(store: Store, study: str, record: Mapping[str, Any]) -> StudyRun:
    """Draw the report. HarnessError where the results can't be read."""
    from harness.report.page import page, shown

    with connect(store, study) as connection:
        found = shown(connection, record["study"])
    files = {REPORT: page([found], own_version()).encode()}
    drawings = [figure.drawing for section in found.sections for figure in section.figures]
    files |= {f"{FIGURES}/{drawing.name}.png": _png(drawing) for drawing in drawings}
    return StudyRun(_note(study, found.study["title"], found.sentences), files)


@contextmanager
def being_made(store: Store, study: str) -> Iterator[Callable[[], StudyRun]]:
    """Draw the report in a process of its own, which ends with this context; the function waits for it.

    Drawing takes seconds in which whoever runs a study has other things to do. What the process can't make is
    made here, so that the reason is told as `made` tells it.
    """
    command = [sys.executable, "-m", __name__, study]
    # Not among the arguments, which all users of a machine see: a bucket's address may have a password.
    environment = {**os.environ, _PLACE: str(store.place)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        drawn = process.stdout

        def wait() -> StudyRun:
            content = drawn.read()
            if process.wait():
                return made(store, study, store.studies()[study])
            return StudyRun(*pickle.loads(content))

        try:
            yield wait
        finally:
            process.kill()


def main() -> None:
    """The process of `being_made`: given a study of the results, it writes what its run says and holds."""
    gc.disable()  # it ends before garbage matters
    (study,) = sys.argv[1:]
    store = Store(os.environ[_PLACE])
    content = made(store, study, store.studies()[study])
    pickle.dump((content.note, content.files), sys.stdout.buffer)


def _note(study: str, title: str, sentences: list[str]) -> str:
    said = "\n".join(f"- {sentence}" for sentence in sentences)
    return (
        f"Study **{study}** on {title}. Its networks are runs of their own, below this one. "
        f"Under Artifacts: `{REPORT}` with all tables and figures, and the figures alone.\n\n{said}"
    ).strip()


def _png(drawing: "Drawing") -> bytes:
    """On white, as MLflow shows images on a dark page, too."""
    from harness.report.figures.drawing import save, style

    with TemporaryDirectory() as folder, style():
        return save(drawing, Path(folder), "png").read_bytes()


def _code() -> str:
    """A digest of what lays the report out: a change of it is a change of the report."""
    package = Path(str(resources.files("harness.report")))
    files = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


if __name__ == "__main__":
    main()
