"""A study's own run in MLflow, above those of its networks: how what it holds is brought up to date.

Its address stays when the report changes, so that it can be shared.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.tracking.destination import TrackingError
from harness.tracking.runs import NOTE
from harness.tracking.study_run import FIGURES, REPORT, StudyRun

PARENT = "mlflow.parentRunId"  # the tag by which MLflow shows a run below another
STUDY, NETWORK = "study", "network"  # tag `kind`: what a run is of


@dataclass(frozen=True)
class Sent:
    """A run that MLflow has: ids of its experiment and of itself, and of the run that it is shown below."""

    experiment: str
    run: str
    parent: str | None = None


@dataclass(frozen=True)
class Owned:
    """Whose a study's own run is (``tags``), and when its networks were made, in ms since the epoch."""

    tags: Mapping[str, str]
    started: int
    ended: int


class StudyRuns:
    """Studies' own runs, by MLflow's client."""

    def __init__(self, mlflow: Any) -> None:
        self._mlflow = mlflow

    def make(self, experiment: str, owned: Owned) -> Sent:
        """One that is still empty."""
        tags = {**owned.tags, "kind": STUDY}
        run = self._mlflow.create_run(experiment, owned.started, tags, owned.tags["study"])
        return Sent(experiment, str(run.info.run_id))

    def is_up_to_date(self, study: Sent, inputs: str) -> bool:
        """Whether its report was made from ``inputs``, a digest, and is there."""
        return self._tags(study).get("digest") == inputs and REPORT in self._files(study)

    def hold(self, study: Sent, owned: Owned, inputs: str, content: StudyRun) -> Sent:
        """Bring it up to date with what was made from ``inputs``; the run that has it.

        Nothing is sent where every byte is there. It is another run where the old one has a figure that is
        made no more: MLflow deletes none.
        """
        there = self._files(study)
        if there == content.files.keys() and self._tags(study).get("files") == content.digest:
            self._mlflow.set_tag(study.run, "digest", inputs)
            return study
        if there - content.files.keys():
            self._mlflow.delete_run(study.run)
            study = self.make(study.experiment, owned)
        self._send(study, content.files)
        self._mlflow.set_tag(study.run, NOTE, content.note)
        self._mlflow.set_tag(study.run, "files", content.digest)
        self._mlflow.set_terminated(study.run, end_time=owned.ended)
        self._mlflow.set_tag(study.run, "digest", inputs)  # last: what was cut off is done again
        return study

    def put_below(self, study: Sent, networks: Iterable[Sent]) -> None:
        """Show the runs of networks below the study's."""
        for network in networks:
            if network.parent != study.run:
                self._mlflow.set_tag(network.run, PARENT, study.run)

    def _tags(self, study: Sent) -> dict[str, str]:
        return dict(self._mlflow.get_run(study.run).data.tags)

    def _files(self, study: Sent) -> set[str]:
        """Paths of the report and the figures that it holds; whatever else someone put there stays."""
        with _of_artifacts():
            listed = self._mlflow.list_artifacts(study.run)
            figures = self._mlflow.list_artifacts(study.run, FIGURES)
        return {file.path for file in listed if file.path == REPORT} | {file.path for file in figures}

    def _send(self, study: Sent, files: Mapping[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            (Path(folder) / FIGURES).mkdir()
            for path, content in files.items():
                (Path(folder) / path).write_bytes(content)
            with _of_artifacts():
                self._mlflow.log_artifacts(study.run, folder)


@contextmanager
def _of_artifacts() -> Iterator[None]:
    """A TrackingError for whatever goes wrong: each kind of artifact store has exceptions of its own."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrackingError(f"MLflow cannot keep the report of the study: {words}") from error
