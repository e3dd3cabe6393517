"""Addresses at which MLflow shows a study's runs; needs no MLflow."""

import json
from urllib.parse import quote, urlencode

from harness.errors import HarnessError
from harness.results.store import Store
from harness.tracking import marks
from harness.tracking.destination import destination, selection
from harness.tracking.study_run import REPORT

# Without the workflow type an experiment opens on an overview of language-model traces.
_WORKFLOW = {"workflowType": "machine_learning"}


def links(
    store: Store, study: str, base_url: str = "http://127.0.0.1:5000", uri: str | None = None
) -> dict[str, str]:
    """The study's ``report``, its ``runs`` as a table (best worst case first), as ``charts``, to ``compare``.

    Raises HarnessError where the study was never synced.
    """
    to = destination(store, uri)
    mark, selected = marks.read(store, study, to), selection(store, study, to)
    if mark is None or not mark.runs:
        raise HarnessError(
            f"study '{study}' has no runs in MLflow: nothing of it is trained, or it was not synced"
        )
    # The table shows no metric unless it is told to, and that fits in no address: see `Client.share_view`.
    table = {"viewStateShareKey": selected.view}
    charts = table | {"compareRunsMode": "CHART"}
    compare = {"runs": json.dumps(mark.runs), "experiments": json.dumps(mark.experiments)}
    experiment = f"{base_url}/#/experiments/{mark.experiments[0]}/runs"
    report = f"{base_url}/#/experiments/{mark.experiments[0]}/runs/{mark.study}/artifacts/{REPORT}"
    return {
        "report": _address(report, _WORKFLOW),
        "runs": _address(experiment, _WORKFLOW | table),
        "charts": _address(experiment, _WORKFLOW | charts),
        "compare": _address(f"{base_url}/#/compare-runs", compare | _WORKFLOW),
    }


def _address(page: str, query: dict[str, str]) -> str:
    return f"{page}?{urlencode(query, quote_via=quote)}"


def has_runs(store: Store, study: str, uri: str | None = None) -> bool:
    """Whether the last sync of the study left runs: what `links` needs."""
    mark = marks.read(store, study, destination(store, uri))
    return mark is not None and bool(mark.runs)


def all_links(store: Store, base_url: str, uri: str | None = None) -> dict[str, dict[str, str]]:
    """Study -> `links`, of all studies that have runs."""
    studies = [study for study in store.studies() if has_runs(store, study, uri)]
    return {study: links(store, study, base_url, uri) for study in studies}
