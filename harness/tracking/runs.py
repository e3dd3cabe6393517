"""What MLflow is told about a study: one run for each network, made from the Parquet files alone.

Knows no MLflow and no settings class: what a network is called and how it was trained stands in its columns.
What is judged (robust accuracy, credit, certified accuracy, verdict) is as the report's views say it.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from harness.report.database import connect, query
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store

# Raised when a run is made differently from the same cells: runs of another version are made anew.
CONTENT_VERSION = 6
HEADLINE = "acc/_worst"  # the underscore sorts it first, which makes it the charts' default
CLEAN = "acc/clean"
_CURVES = ("loss", "clean_accuracy", "images_per_s")  # columns of a training's rows
_NOTE = "Charts of white_box/...: the x axis, 'Step', is the attack's epsilon in units of 1/255."

Attacked = tuple[str, float | None]  # name and epsilon of a black-box attack


@dataclass(frozen=True)
class Headline:
    """What is said of a network first: robust, credit and certified accuracies, verdict and its reason."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


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
    evaluations: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def cell(self) -> str:
        """The key of the training's cell."""
        return str(self.meta["key"])

    @property
    def dataset(self) -> str:
        return str(self.meta["partition"]["dataset"])

    def digest(self, names: Mapping[Attacked, str]) -> str:
        """Of all that the run is made from."""
        cells = sorted([self.cell, *(meta["key"] for _, meta in self.evaluations)])
        said = [self.headline.metrics, self.headline.tags]
        return digest(CONTENT_VERSION, self.title, sorted(names.values()), cells, said)


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


# --- a study's networks and attacks -----------------------------------------------------------------


def networks(
    store: Store, paths: Iterable[str], headline: Callable[[str, int | None], Headline]
) -> list[TrackedNetwork]:
    """The networks trained among these cells, each with its evaluations, in the study's order."""
    metas = [(path, store.metadata(path)) for path in paths]
    trained = [(path, meta) for path, meta in metas if meta["table"] == "training"]
    has_seeds = len({meta["columns"]["seed"] for _, meta in trained} - {None}) > 1
    by_key = {
        meta["key"]: TrackedNetwork(
            _title(meta["columns"], has_seeds),
            path,
            meta,
            headline(meta["columns"]["name"], meta["columns"]["seed"]),
        )
        for path, meta in trained
    }
    for path, meta in metas:
        network = by_key.get(meta["columns"].get("network"))
        if network and meta["table"] == "evaluation" and meta["partition"]["split"] == "test":
            network.evaluations.append((path, meta))
    return list(by_key.values())


def headlines(store: Store, study: str) -> Callable[[str, int | None], Headline]:
    """A network's headline by its name and seed; of None the mean over the seeds, for finished models."""
    # Rounded: the last bits of a mean depend on the order in which threads add, and runs are told by digests.
    averages = """
        select name, seed, metric, round(avg(value), 12) as value from headline
        group by grouping sets ((name, seed, metric), (name, metric)) order by name, seed, metric
    """
    with connect(store, study, settled=True) as connection:
        shares = query(connection, averages).to_pylist()
        verdicts = query(connection, "from verdicts").to_pylist()
    metrics: dict[tuple[str, int | None], dict[str, float]] = {}
    for row in shares:
        metrics.setdefault((row["name"], row["seed"]), {})[_metric(row["metric"])] = row["value"]
    tags = {row["name"]: _verdict(row) for row in verdicts}
    return lambda name, seed: Headline(metrics.get((name, seed), {}), tags.get(name, {}))


def _metric(quantity: str) -> str:
    """robust/linf_8/255 -> robust/linf_8_255: MLflow groups what has a slash."""
    group, name = quantity.split("/", 1)
    return f"{group}/{name.replace('/', '_')}"


def _verdict(row: Mapping[str, Any]) -> dict[str, str]:
    if row["verdict"] == "not checked":
        return {}
    return {"verdict": row["verdict"]} | ({"reason": row["reason"]} if row["reason"] else {})


def _title(columns: Mapping[str, Any], has_seeds: bool) -> str:
    name = str(columns["name"])
    has_one = has_seeds and columns["seed"] is not None  # a finished model has none
    return f"{name} (seed {columns['seed']})" if has_one else name


def metric_names(networks: Iterable[TrackedNetwork]) -> dict[Attacked, str]:
    """Every black-box attack of the study -> its metric; with the epsilon where an attack has several."""
    from harness.settings import epsilon_text  # with pydantic, which a sync without news does without

    metas = [meta for network in networks for _, meta in network.evaluations]
    attacks = {_attacked(meta) for meta in metas if meta["partition"]["access"] == "black_box"}
    epsilons = Counter(attack for attack, _ in attacks)
    names = {}
    for attack, epsilon in sorted(attacks, key=lambda attacked: (attacked[0], attacked[1] or 0)):
        names[attack, epsilon] = f"acc/{attack}"
        if epsilon is not None and epsilons[attack] > 1:
            names[attack, epsilon] += f"_{epsilon_text(epsilon).replace('/', '_')}"
    return names


def _attacked(meta: Mapping[str, Any]) -> Attacked:
    return meta["columns"]["attack"], meta["columns"]["epsilon"]


# --- a network's run --------------------------------------------------------------------------------


def tracked_run(store: Store, network: TrackedNetwork, names: Mapping[Attacked, str]) -> TrackedRun:
    """One network's run: its training's curve, its accuracies, and what it was trained with."""
    rows = sorted(store.rows(network.path).to_pylist(), key=lambda row: row["epoch"])
    ended = int(store.modified(network.path) * 1000)
    started = ended - int(1000 * sum(row["epoch_s"] or 0 for row in rows))
    # MLflow's comparison starts with the metric that was written first: the headline.
    accuracies = [Point(name, value, ended, step) for name, value, step in _accuracies(store, network, names)]
    judged = [Point(name, value, ended, 0) for name, value in network.headline.metrics.items()]
    points = [*accuracies, *judged, *_curves(rows, started)]
    tags = {
        "cell": network.cell,
        "results": network.path,
        "dataset": network.dataset,
        "schema_version": str(SCHEMA_VERSION),
    }
    tags |= network.headline.tags
    if any(meta["partition"]["access"] == "white_box" for _, meta in network.evaluations):
        tags["mlflow.note.content"] = _NOTE
    # MLflow gives an infinity back as 1.8e308.
    finite = [point for point in points if math.isfinite(point.value)]
    return TrackedRun(network.title, tags, _params(network.meta), finite, started, ended)


def _params(meta: Mapping[str, Any]) -> dict[str, str]:
    """What the network is and how it was trained; what does not apply to it is left out.

    MLflow's comparison starts with the first parameters by name that differ: k and n come before train/.
    """
    columns = dict(meta["columns"])
    settings = json.loads(columns.pop("settings"))
    params = {"method": meta["partition"]["method"], **columns}
    prefix = "model" if params["method"] == "finished" else "train"
    params |= {f"{prefix}/{name}": value for name, value in settings.items() if name not in columns}
    architecture = meta["spec"]["architecture"]
    params["architecture"] = architecture.get("use") or architecture["architecture"]
    return {name: _plain(value) for name, value in params.items() if value is not None}


def _curves(rows: Iterable[Mapping[str, Any]], started: int) -> Iterator[Point]:
    """The rows of a training over its epochs, each at the time when its epoch ended."""
    time = started
    for row in rows:
        time += int(1000 * (row["epoch_s"] or 0))
        for name in _CURVES:
            if row[name] is not None:
                yield Point(f"train/{name}", row[name], time, row["epoch"])


def _accuracies(
    store: Store, network: TrackedNetwork, names: Mapping[Attacked, str]
) -> list[tuple[str, float, int]]:
    """Metric, share of images classified correctly, step; a finished model's are means over the seeds."""
    by_seed: dict[int, dict[tuple[str, int], float]] = {}
    seeds = dict.fromkeys(meta["columns"]["seed"] for _, meta in network.evaluations)
    for seed in seeds:
        mine = [(path, meta) for path, meta in network.evaluations if meta["columns"]["seed"] == seed]
        by_seed[seed] = _of_one_seed(store, mine, names)
    measured = dict.fromkeys(metric for accuracies in by_seed.values() for metric in accuracies)
    return [
        (name, float(np.mean([accuracies[name, step] for accuracies in by_seed.values()])), step)
        for name, step in measured
        if all((name, step) in accuracies for accuracies in by_seed.values())
    ]


def _of_one_seed(
    store: Store, evaluations: Iterable[tuple[str, Mapping[str, Any]]], names: Mapping[Attacked, str]
) -> dict[tuple[str, int], float]:
    """(metric, step) -> share of images classified correctly, the headline first."""
    black_box, white_box, ids = {}, {}, None
    for path, meta in evaluations:
        rows = store.rows(path).sort_by("image_id")
        right = rows["label"].to_numpy() == rows["prediction"].to_numpy()
        ids = rows["image_id"].to_numpy() if ids is None else ids
        assert np.array_equal(ids, rows["image_id"].to_numpy()), "a study's evaluations are of other images"
        if meta["partition"]["access"] == "white_box":
            white_box[_white_box(meta["columns"])] = float(right.mean())
            continue
        is_clean = meta["partition"]["access"] == "clean"
        black_box[CLEAN if is_clean else names[_attacked(meta)]] = right
    headline = {}
    # The worst of fewer attacks than the other networks met is not comparable with theirs.
    if black_box.keys() == {CLEAN, *names.values()}:
        headline[HEADLINE, 0] = float(np.logical_and.reduce(list(black_box.values())).mean())
    accuracies = {(name, 0): float(right.mean()) for name, right in black_box.items()}
    return headline | accuracies | white_box


def _white_box(columns: Mapping[str, Any]) -> tuple[str, int]:
    """Metric and step of an attack on the network itself: a curve over epsilon, for each step size of it."""
    name, epsilon, step_size = f"white_box/{columns['attack']}", columns["epsilon"], columns["step_size"]
    if step_size is not None:
        name += f"_div_{_plain(round(epsilon / step_size, 6))}"
    return name, round(255 * epsilon) if epsilon is not None else 0


def _plain(value: Any) -> str:
    """1.0 -> '1': MLflow plots parameters that read as numbers on a numeric axis."""
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def digest(*parts: Any) -> str:
    """Hex SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
