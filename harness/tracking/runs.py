"""What MLflow is told about a study: one run for each network, made from the Parquet files alone.

Knows no MLflow and no settings class: what a network is called and how it was trained stands in its columns.
What is judged (robust accuracy, credit, certified accuracy, verdict) is as the report's views say it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store
from harness.tracking import accuracies, params
from harness.tracking.headline import Headline, Headlines
from harness.tracking.notes import description

# Raised when a run is made differently from the same cells: runs of another version are made anew.
CONTENT_VERSION = 6
NOTE = "mlflow.note.content"  # what MLflow shows as a run's description
_CURVES = ("loss", "clean_accuracy", "images_per_s")  # columns of a training's rows


@dataclass(frozen=True)
class TrackedNetwork:
    """A finished training and the finished evaluations of its network on test images.

    Each as the path from the root and its metadata.

    ``title`` is the study's name of the network, with its seed where the networks of a study have several.
    """

    title: str
    path: str
    meta: Mapping[str, Any]
    headline: Headline
    evaluations: list[accuracies.Evaluation] = field(default_factory=list)

    @property
    def cell(self) -> str:
        """The key of the training's cell."""
        return str(self.meta["key"])

    @property
    def dataset(self) -> str:
        return str(self.meta["partition"]["dataset"])


@dataclass(frozen=True)
class TrackedStudy:
    """Networks of a study, in its order, and how they are told apart.

    ``metrics``: the names of their accuracies, ``differing``: of their parameters, ``order``: the metric by
    which they are put in order.
    """

    name: str
    dataset_title: str
    networks: Sequence[TrackedNetwork]
    metrics: accuracies.Names
    differing: frozenset[str]
    order: str

    def digest(self, network: TrackedNetwork) -> str:
        """Of all that the network's run is made from."""
        cells = sorted([network.cell, *(meta["key"] for _, meta in network.evaluations)])
        headline = network.headline
        said = [network.title, self.dataset_title, headline.metrics, headline.tags, headline.lines]
        named = [sorted(self.metrics.several), self.metrics.black_box, sorted(self.differing)]
        return digest(CONTENT_VERSION, self.name, self.order, cells, said, named)

    @property
    def columns(self) -> list[str]:
        """The metrics that its table shows: a screen has room for few."""
        judged = {metric for network in self.networks for metric in network.headline.metrics}
        credit = self.order.replace("acc/", "credit/")
        shown = sorted(metric for metric in judged if metric.startswith("acc/") or metric == credit)
        return list(dict.fromkeys((accuracies.CLEAN, *(shown or [self.order]))))


class Point(NamedTuple):
    """A value of a metric; ``time`` in ms since the epoch."""

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class TrackedRun:
    """One network as MLflow shows it; times in ms since the epoch."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[Point]
    started: int
    ended: int


# --- a study's networks -----------------------------------------------------------------------------


def tracked_study(store: Store, study: str, paths: Iterable[str], headlines: Headlines) -> TrackedStudy:
    """The networks trained among these cells, each with its evaluations, in the study's order."""
    metas = [(path, store.metadata(path)) for path in paths]
    trained = [(path, meta) for path, meta in metas if meta["table"] == "training"]
    has_seeds = len({meta["columns"]["seed"] for _, meta in trained} - {None}) > 1
    by_key = {
        meta["key"]: TrackedNetwork(
            _title(meta["columns"], has_seeds),
            path,
            meta,
            headlines.of(meta["columns"]["name"], meta["columns"]["seed"]),
        )
        for path, meta in trained
    }
    for path, meta in metas:
        network = by_key.get(meta["columns"].get("network"))
        if network and meta["table"] == "evaluation" and meta["partition"]["split"] == "test":
            network.evaluations.append((path, meta))
    networks = list(by_key.values())
    names = accuracies.names([each for network in networks for each in network.evaluations])
    return TrackedStudy(
        study,
        headlines.title,
        networks,
        names,
        params.apart([network.meta for network in networks]),
        headlines.first or (accuracies.WORST if names.black_box else accuracies.CLEAN),
    )


def _title(columns: Mapping[str, Any], has_seeds: bool) -> str:
    name = str(columns["name"])
    has_one = has_seeds and columns["seed"] is not None  # a finished model has none
    return f"{name} (seed {columns['seed']})" if has_one else name


# --- a network's run --------------------------------------------------------------------------------


def tracked_run(store: Store, study: TrackedStudy, network: TrackedNetwork) -> TrackedRun:
    """One network's run: its training's curve, its accuracies, what it was trained with, and words on it."""
    rows = sorted(store.rows(network.path).to_pylist(), key=lambda row: row["epoch"])
    ended = int(store.modified(network.path) * 1000)
    started = ended - int(1000 * sum(row["epoch_s"] or 0 for row in rows))
    measured = accuracies.accuracies(store, network.evaluations, study.metrics)
    values = {**network.headline.metrics, **measured}
    # MLflow's comparison starts with the metric that was written first: the headline.
    names = sorted(values, key=lambda name: (name != study.order, not name.startswith("acc/")))
    points = [Point(name, values[name], ended, 0) for name in names]
    points += _curves(rows, started)
    tags = {
        **params.tags(network.meta, study.differing),
        "cell": network.cell,
        "results": network.path,
        "dataset": network.dataset,
        "schema_version": str(SCHEMA_VERSION),
        **network.headline.tags,
        NOTE: description(study.name, study.dataset_title, network.meta, network.headline.lines),
    }
    # MLflow gives an infinity back as 1.8e308.
    finite = [point for point in points if math.isfinite(point.value)]
    return TrackedRun(
        network.title, tags, params.params(network.meta, study.differing), finite, started, ended
    )


def _curves(rows: Iterable[Mapping[str, Any]], started: int) -> Iterator[Point]:
    """The rows of a training over its epochs, each at the time when its epoch ended."""
    time = started
    for row in rows:
        time += int(1000 * (row["epoch_s"] or 0))
        for name in _CURVES:
            if row[name] is not None:
                yield Point(f"train/{name}", row[name], time, row["epoch"])


def digest(*parts: Any) -> str:
    """Hex SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
