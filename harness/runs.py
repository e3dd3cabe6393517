"""What MLflow is told about a study: one run for each network, made from the Parquet files alone.

Knows no MLflow: `tracking` sends what is made here.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.plan import network_title
from harness.records import SCHEMA_VERSION
from harness.settings import epsilon_text
from harness.store import Store

CONTENT_VERSION = (
    2  # raised when a run is made differently from the same cells: runs of another version are made anew
)
HEADLINE = "acc/_worst"  # the underscore sorts it first, which makes it the charts' default

Attacked = tuple[str, float | None]  # name and epsilon of a black-box attack


@dataclass(frozen=True)
class Network:
    """A finished training and the finished evaluations of its network: paths from the root, and metadata."""

    path: str
    meta: Mapping[str, Any]
    evaluations: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def digest(self, names: Mapping[Attacked, str]) -> str:
        """Of all that the run is made from."""
        return digest(
            CONTENT_VERSION,
            sorted(names.values()),
            sorted([self.meta["key"], *(meta["key"] for _, meta in self.evaluations)]),
        )


@dataclass(frozen=True)
class Run:
    """One network as MLflow shows it; times in ms since the epoch, metrics as (name, value, time, step)."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]
    started: int
    ended: int


def networks(store: Store, paths: list[str]) -> list[Network]:
    """The networks trained among these cells, each with its evaluations, in the study's order."""
    metas = [(path, store.metadata(path)) for path in paths]
    found = {meta["key"]: Network(path, meta) for path, meta in metas if meta["table"] == "training"}
    for path, meta in metas:
        if meta["table"] == "evaluation" and meta["columns"]["network"] in found:
            found[meta["columns"]["network"]].evaluations.append((path, meta))
    return list(found.values())


def metric_names(networks: list[Network]) -> dict[Attacked, str]:
    """Every black-box attack of the study -> its metric; the epsilon is part of it where an attack has several."""
    found = {
        _attacked(meta)
        for n in networks
        for _, meta in n.evaluations
        if meta["partition"]["access"] == "black_box"
    }
    counts = Counter(name for name, _ in found)
    ordered = sorted(found, key=lambda attacked: (attacked[0], attacked[1] or 0))
    return {
        (name, eps): f"acc/{name}"
        + (f"_{epsilon_text(eps).replace('/', '_')}" if eps is not None and counts[name] > 1 else "")
        for name, eps in ordered
    }


def _attacked(meta: Mapping[str, Any]) -> Attacked:
    return meta["columns"]["attack"], meta["columns"]["epsilon"]


def run(store: Store, network: Network, names: Mapping[Attacked, str]) -> Run:
    """One network's run: its training's curve, its accuracies, and what it was trained with."""
    meta = network.meta
    rows = sorted(store.rows(network.path).to_pylist(), key=lambda row: row["epoch"])
    ended = int(store.modified(network.path) * 1000)
    now = started = ended - int(1000 * sum(row["epoch_s"] or 0 for row in rows))
    metrics: list[tuple[str, float | None, int, int]] = []
    # The headline before all others: MLflow's comparison starts with the metric that was written first.
    metrics += [(name, value, ended, step) for name, value, step in _accuracies(store, network, names)]
    for row in rows:
        now += int(1000 * (row["epoch_s"] or 0))
        metrics += [
            (f"train/{name}", row[name], now, row["epoch"])
            for name in ("loss", "clean_accuracy", "images_per_s")
        ]
    # MLflow's comparison starts with the first parameters by name that differ: k and n come before train/.
    settings = {f"train/{name}": value for name, value in meta["spec"]["training"].items()}
    params = {"training": meta["partition"]["training"], **meta["columns"], **settings}
    params["architecture"] = meta["spec"]["architecture"]["architecture"]
    return Run(
        network_title(meta["partition"]["training"], meta["columns"]),
        {"cell": meta["key"], "results": network.path, "dataset": meta["partition"]["dataset"], "schema_version": str(SCHEMA_VERSION)},
        {name: _plain(value) for name, value in params.items() if value is not None},
        # MLflow gives an infinity back as 1.8e308.
        [(name, value, at, step) for name, value, at, step in metrics if value is not None and math.isfinite(value)],
        started, ended,
    )  # fmt: skip


def _accuracies(
    store: Store, network: Network, names: Mapping[Attacked, str]
) -> list[tuple[str, float, int]]:
    """Metric, share of images classified correctly, step."""
    black_box, white_box, ids = {}, [], None
    for path, meta in network.evaluations:
        rows = store.rows(path).select(["image_id", "label", "prediction"]).sort_by("image_id")
        right = rows["label"].to_numpy() == rows["prediction"].to_numpy()
        if meta["partition"]["access"] == "white_box":
            epsilon, step_size = meta["columns"]["epsilon"], meta["columns"]["step_size"]
            divisor = _plain(round(epsilon / step_size, 6))
            white_box.append(
                (
                    f"white_box/{meta['columns']['attack']}_div_{divisor}",
                    float(right.mean()),
                    round(255 * epsilon),
                )
            )
            continue
        ids = rows["image_id"].to_numpy() if ids is None else ids
        assert np.array_equal(ids, rows["image_id"].to_numpy()), (
            "a study's evaluations are on the same images"
        )
        black_box["acc/clean" if meta["partition"]["access"] == "clean" else names[_attacked(meta)]] = right
    result = [(name, float(right.mean()), 0) for name, right in black_box.items()]
    # The worst of fewer attacks than the other networks met is not comparable with theirs.
    if black_box.keys() == {"acc/clean", *names.values()}:
        result.insert(0, (HEADLINE, float(np.logical_and.reduce(list(black_box.values())).mean()), 0))
    return result + white_box


def _plain(value: Any) -> str:
    """1.0 -> '1': MLflow plots parameters that read as numbers on a numeric axis."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def digest(*parts: Any) -> str:
    """Hex SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
