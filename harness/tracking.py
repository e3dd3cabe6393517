"""An index of the results in MLflow: one run for each network of a study, made from the Parquet files.

Parquet is the truth. ``mlflow.db`` may be deleted at any time; the next `sync` writes it again. Only
the driver writes it, under a lock. MLflow takes more than a second to import, so it is imported where
it is used, and not at all where a study's runs are known to be up to date.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np

from harness.errors import HarnessError, did_you_mean
from harness.plan import network_title
from harness.records import SCHEMA_VERSION
from harness.spec import epsilon_text
from harness.store import STUDIES, Store

CONTENT_VERSION = 1  # raised when a run is made differently from the same cells: runs of another version are made anew
HEADLINE = "acc/_worst"  # the underscore sorts it first, which makes it the charts' default
_DATABASE = "mlflow.db"
_BATCH = 900  # MLflow takes 1000 items a call, parameters included

Attacked = tuple[str, float | None]  # name and epsilon of a black-box attack


@dataclass(frozen=True)
class _Network:
    """A finished training and the finished evaluations of its network: paths from the root, and metadata."""

    path: str
    meta: Mapping[str, Any]
    evaluations: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def digest(self, names: Mapping[Attacked, str]) -> str:
        """Of all that the run is made from."""
        return _digest(CONTENT_VERSION, sorted(names.values()), sorted([self.meta["key"], *(meta["key"] for _, meta in self.evaluations)]))


@dataclass(frozen=True)
class _Run:
    """What MLflow is told about one network; times in ms since the epoch, metrics as (name, value, time, step)."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]
    started: int
    ended: int


def tracking_uri(store: Store) -> str:
    """The results root's own MLflow database, an absolute path: MLflow's default depends on the current folder."""
    return f"sqlite:///{database_path(store)}"


def warm_up(store: Store) -> None:
    """Import MLflow and make the database where there is none: the slow part of a first `sync`, safe in a thread."""
    with _locked(store):
        _client(store, tracking_uri(store))


def sync(store: Store, study: str, uri: str | None = None, progress: Callable[[int, int], None] | None = None) -> int:
    """Bring the study's runs up to date with its Parquet files; returns how many were written.

    Runs made from the same cells stay, others are deleted and made anew. ``progress`` is called with
    the runs written and to write. Raises HarnessError for an unknown study or a damaged file.
    """
    record = store.studies()
    if study not in record:
        raise HarnessError(f"no study '{study}' in '{store.root}'{did_you_mean(study, record)}")
    entries = [e for e in record[study]["cells"] if e["table"] in ("training", "evaluation") and (store.root / e["path"]).exists()]
    own = uri is None or uri == tracking_uri(store)
    uri = uri or tracking_uri(store)
    overall = _digest(CONTENT_VERSION, uri, sorted(entry["key"] for entry in entries))
    if own and database_path(store).exists() and _marker(store, study).get("digest") == overall:
        return 0
    networks = _networks(store, [entry["path"] for entry in entries])
    names = _metric_names(networks)
    wanted = {network.meta["key"]: network.digest(names) for network in networks}
    with _locked(store):
        client = _client(store, uri)
        kept = _keep(client, study, wanted)
        pending = [network for network in networks if network.meta["key"] not in kept]
        for done, network in enumerate(pending):
            if progress:
                progress(done, len(pending))
            tags = {"study": study, "digest": wanted[network.meta["key"]]}
            experiment = _experiment(client, network.meta["partition"]["dataset"], store if own else None)
            kept[network.meta["key"]] = (experiment, _write(client, experiment, _run(store, network, names), tags))
        if progress and pending:
            progress(len(pending), len(pending))
        runs = [kept[key] for key in wanted]
        experiments = sorted({experiment for experiment, _ in runs})
        for experiment in experiments:
            client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{study}", json.dumps(_view(study, names)))
        marker = {"digest": overall, "experiments": experiments, "runs": [run for _, run in runs]}
        _marker_path(store, study).write_text(json.dumps(marker))
    return len(pending)


def links(store: Store, study: str, base_url: str = "http://127.0.0.1:5000") -> dict[str, str]:
    """Addresses of the study's ``runs`` as a table (best worst case first), as ``charts``, and side by side (``compare``).

    Needs no MLflow. Raises HarnessError where the study was never synced.
    """
    marker = _marker(store, study)
    if not marker.get("runs"):
        raise HarnessError(f"study '{study}' has no runs in MLflow: nothing of it is trained, or it was not synced")
    experiment = f"{base_url}/#/experiments/{marker['experiments'][0]}/runs?"
    # Without the workflow type an experiment opens on an overview of language-model traces.
    machine_learning = {"workflowType": "machine_learning"}
    # The table shows no metric unless it is told to, and that fits in no address: see `_view`.
    runs = machine_learning | {"viewStateShareKey": study}
    order = {"orderByKey": f"metrics.`{HEADLINE}`", "orderByAsc": "false", "searchFilter": _filter(study)}
    charts = machine_learning | {"compareRunsMode": "CHART"} | order
    compare = {"runs": json.dumps(marker["runs"]), "experiments": json.dumps(marker["experiments"])} | machine_learning
    return {
        "runs": experiment + urlencode(runs, quote_via=quote),
        "charts": experiment + urlencode(charts, quote_via=quote),
        "compare": f"{base_url}/#/compare-runs?" + urlencode(compare, quote_via=quote),
    }


def has_runs(store: Store, study: str) -> bool:
    """Whether the last sync of the study left runs: what `links` needs."""
    return bool(_marker(store, study).get("runs"))


# --- what a run is made from ---


def _networks(store: Store, paths: list[str]) -> list[_Network]:
    """The networks trained among these cells, each with its evaluations, in the study's order."""
    metas = [(path, store.metadata(path)) for path in paths]
    networks = {meta["key"]: _Network(path, meta) for path, meta in metas if meta["table"] == "training"}
    for path, meta in metas:
        if meta["table"] == "evaluation" and meta["columns"]["network"] in networks:
            networks[meta["columns"]["network"]].evaluations.append((path, meta))
    return list(networks.values())


def _metric_names(networks: list[_Network]) -> dict[Attacked, str]:
    """Every black-box attack of the study -> its metric; the epsilon is part of it where an attack has several."""
    found = {_attacked(meta) for n in networks for _, meta in n.evaluations if meta["partition"]["access"] == "black_box"}
    counts = Counter(name for name, _ in found)
    ordered = sorted(found, key=lambda attacked: (attacked[0], attacked[1] or 0))
    return {
        (name, eps): f"acc/{name}" + (f"_{epsilon_text(eps).replace('/', '_')}" if eps is not None and counts[name] > 1 else "")
        for name, eps in ordered
    }


def _attacked(meta: Mapping[str, Any]) -> Attacked:
    return meta["columns"]["attack"], meta["columns"]["epsilon"]


def _run(store: Store, network: _Network, names: Mapping[Attacked, str]) -> _Run:
    """One network's run: its training's curve, its accuracies, and what it was trained with."""
    meta, path = network.meta, store.root / network.path
    rows = sorted(store.rows(network.path).to_pylist(), key=lambda row: row["epoch"])
    ended = int(path.stat().st_mtime * 1000)
    now = started = ended - int(1000 * sum(row["epoch_s"] or 0 for row in rows))
    metrics: list[tuple[str, float | None, int, int]] = []
    # The headline before all others: MLflow's comparison starts with the metric that was written first.
    metrics += [(name, value, ended, step) for name, value, step in _accuracies(store, network, names)]
    for row in rows:
        now += int(1000 * (row["epoch_s"] or 0))
        metrics += [(f"train/{name}", row[name], now, row["epoch"]) for name in ("loss", "clean_accuracy", "images_per_s")]
    # MLflow's comparison starts with the first parameters by name that differ: k and n come before train/.
    settings = {f"train/{name}": value for name, value in meta["spec"]["training"].items()}
    params = {"training": meta["partition"]["training"], **meta["columns"], **settings}
    params["architecture"] = meta["spec"]["architecture"]["architecture"]
    return _Run(
        network_title(meta["partition"]["training"], meta["columns"]),
        {"cell": meta["key"], "results": network.path, "dataset": meta["partition"]["dataset"], "schema_version": str(SCHEMA_VERSION)},
        {name: _plain(value) for name, value in params.items() if value is not None},
        # MLflow gives an infinity back as 1.8e308.
        [(name, value, at, step) for name, value, at, step in metrics if value is not None and math.isfinite(value)],
        started, ended,
    )  # fmt: skip


def _accuracies(store: Store, network: _Network, names: Mapping[Attacked, str]) -> list[tuple[str, float, int]]:
    """Metric, share of images classified correctly, step."""
    black_box, white_box, ids = {}, [], None
    for path, meta in network.evaluations:
        rows = store.rows(path).select(["image_id", "label", "prediction"]).sort_by("image_id")
        right = rows["label"].to_numpy() == rows["prediction"].to_numpy()
        if meta["partition"]["access"] == "white_box":
            epsilon, step_size = meta["columns"]["epsilon"], meta["columns"]["step_size"]
            divisor = _plain(round(epsilon / step_size, 6))
            white_box.append((f"white_box/{meta['columns']['attack']}_div_{divisor}", float(right.mean()), round(255 * epsilon)))
            continue
        ids = rows["image_id"].to_numpy() if ids is None else ids
        assert np.array_equal(ids, rows["image_id"].to_numpy()), "a study's evaluations are on the same images"
        black_box["acc/clean" if meta["partition"]["access"] == "clean" else names[_attacked(meta)]] = right
    result = [(name, float(right.mean()), 0) for name, right in black_box.items()]
    # The worst of fewer attacks than the other networks met is not comparable with theirs.
    if black_box.keys() == {"acc/clean", *names.values()}:
        result.insert(0, (HEADLINE, float(np.logical_and.reduce(list(black_box.values())).mean()), 0))
    return result + white_box


def _plain(value: Any) -> str:
    """1.0 -> '1': MLflow plots parameters that read as numbers on a numeric axis."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


# --- MLflow ---


def _client(store: Store, uri: str) -> Any:
    """A client; under the lock, as its constructor makes and migrates the database."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    # A pooled connection would go on with a database that was deleted in the meantime.
    os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    database = database_path(store)
    try:
        if uri == tracking_uri(store) and not database.exists():
            # Made under another name: one whose creation was cut off would stay half migrated, and unusable, for ever.
            for left in store.root.glob(f".{_DATABASE}.*"):
                left.unlink()
            temporary = database.with_name(f".{_DATABASE}.{uuid.uuid4().hex}.tmp")  # never twice: MLflow remembers what it made
            MlflowClient(f"sqlite:///{temporary}")
            for marker in (store.root / STUDIES).glob(".*.tracked"):
                marker.unlink()  # they speak of the database that is gone
            os.replace(temporary, database)
        return MlflowClient(uri)
    except MlflowException as error:
        raise HarnessError(f"MLflow cannot use '{uri}': {error}\n'{database}' may be deleted, the next sync writes it again.") from error


def _experiment(client: Any, dataset: str, owner: Store | None) -> str:
    """The id of the data set's experiment."""
    found = client.get_experiment_by_name(dataset)
    if found is None:
        return str(client.create_experiment(dataset, artifact_root(owner) if owner else None))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _keep(client: Any, study: str, wanted: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Delete the study's runs that are out of date, unfinished or double; the others: cell -> (experiment, run)."""
    kept: dict[str, tuple[str, str]] = {}
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    page: str | None = ""
    found: list[Any] = []
    while page is not None:
        answer = client.search_runs(experiments, _filter(study), max_results=1000, page_token=page or None)
        found, page = found + list(answer), answer.token or None
    for run in found:
        cell = run.data.tags.get("cell", "")
        if cell not in kept and wanted.get(cell) == run.data.tags.get("digest") and run.info.status == "FINISHED":
            kept[cell] = (run.info.experiment_id, run.info.run_id)
        else:
            client.delete_run(run.info.run_id)
    return kept


def _filter(study: str) -> str:
    """The study's runs, in MLflow's search language."""
    return f'tags.study = "{study}"'


def _view(study: str, names: Mapping[Attacked, str]) -> dict[str, Any]:
    """The table of a study's runs, as MLflow keeps the views that its users share: in a tag of the experiment."""
    metrics = [HEADLINE, "acc/clean", *names.values()]
    return {
        "searchFilter": _filter(study), "orderByKey": f"metrics.`{HEADLINE}`", "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{name}`" for name in metrics), "params.`k`", "params.`n`"],
    }  # fmt: skip


def _write(client: Any, experiment: str, run: _Run, tags: Mapping[str, str]) -> str:
    """Write one run and return its id. It counts as there once it is finished, which is said last."""
    from mlflow.entities import Metric, Param

    made = str(client.create_run(experiment, start_time=run.started, tags={**run.tags, **tags}, run_name=run.name).info.run_id)
    metrics, params = [Metric(*metric) for metric in run.metrics], [Param(*param) for param in run.params.items()]
    for start in range(0, max(len(metrics), 1), _BATCH):
        client.log_batch(made, metrics[start : start + _BATCH], params if start == 0 else [])
    client.set_terminated(made, end_time=run.ended)
    return made


# --- files ---


def database_path(store: Store) -> Path:
    return store.root.resolve() / _DATABASE


def artifact_root(store: Store) -> str:
    """Never written, but MLflow insists on a place and would take one in the current folder."""
    return (store.root.resolve() / ".mlflow-artifacts").as_uri()


def _marker_path(store: Store, study: str) -> Path:
    return store.root / STUDIES / f".{study}.tracked"


def _marker(store: Store, study: str) -> dict[str, Any]:
    """What the last sync of the study left: digest of its cells, ids of experiments and runs; empty where there is none."""
    with suppress(OSError, ValueError):
        marker: dict[str, Any] = json.loads(_marker_path(store, study).read_text())
        return marker
    return {}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One driver at a time: two that make the database at once break it."""
    try:
        file = (store.root / ".mlflow.lock").open("w")
    except OSError as error:
        raise HarnessError(f"the results folder '{store.root}' cannot be written: {error.strerror or error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
