"""A study's own run: the report and its figures, sent when they changed, found where the folder goes."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mini_study import BASE, CELLS, filled, record

from harness.cli import main
from harness.errors import HarnessError
from harness.report.database import connect
from harness.report.page import shown
from harness.results.store import Store
from harness.tracking import study_run
from harness.tracking.destination import destination
from harness.tracking.links import links
from harness.tracking.sync import get_ready, sync

NETWORKS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = filled(Store(tmp_path_factory.mktemp("reports") / "results"))
    assert sync(store, "mini") == NETWORKS
    return store


def client(store: Store) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(destination(store).uri)


def runs(store: Store, kind: str) -> list[Any]:
    mlflow = client(store)
    experiments = [each.experiment_id for each in mlflow.search_experiments()]
    return list(mlflow.search_runs(experiments, f'tags.kind = "{kind}"'))


def files(store: Store) -> dict[str, Path]:
    """Path among the artifacts -> file, of the study's only run."""
    (run,) = runs(store, "study")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert store.root.resolve() in folder.parents
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_the_studys_run_holds_the_report_and_its_figures(store: Store, tmp_path: Path) -> None:
    found = files(store)
    main(
        ["report", "mini", "--results", str(store.root), "--out", str(tmp_path / "r.html")],
        standalone_mode=False,
    )
    assert found["report.html"].read_bytes() == (tmp_path / "r.html").read_bytes()
    figures = sorted(path for path in found if path != "report.html")
    assert figures and all(path.startswith("figures/") and path.endswith(".png") for path in figures)
    assert all(found[path].read_bytes().startswith(b"\x89PNG") for path in figures)


def test_the_networks_stand_below_it_and_it_says_what_comes_first(store: Store) -> None:
    (study,) = runs(store, "study")
    networks = runs(store, "network")
    assert len(networks) == NETWORKS
    assert {run.data.tags["mlflow.parentRunId"] for run in networks} == {study.info.run_id}
    assert (study.info.run_name, study.info.status) == ("mini", "FINISHED")
    with connect(store, "mini") as connection:
        sentences = shown(connection, {"name": "mini"}).sentences
    assert sentences
    for sentence in sentences:
        assert f"- {sentence}" in study.data.tags["mlflow.note.content"]
    assert f"/runs/{study.info.run_id}/artifacts/report.html?" in links(store, "mini")["report"]


def test_what_made_the_same_bytes_is_not_sent_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs changed (a setting that no table shows the value of may), the report did not."""
    before = {path: file.stat().st_mtime_ns for path, file in files(store).items()}
    monkeypatch.setattr("harness.tracking.study_run.inputs", lambda *given: "other inputs")
    assert sync(store, "mini") == 0
    (study,) = runs(store, "study")
    assert study.data.tags["digest"] == "other inputs"
    assert {path: file.stat().st_mtime_ns for path, file in files(store).items()} == before


def test_a_report_that_was_lost_is_sent_again(store: Store) -> None:
    assert sync(store, "mini") == 0
    files(store)["report.html"].unlink()
    assert sync(store, "mini") == 0
    assert "report.html" in files(store)


def test_a_changed_study_changes_the_report_at_its_address(store: Store) -> None:
    (before,) = runs(store, "study")
    text = files(store)["report.html"].read_bytes()
    record(store, [cell for cell in CELLS if cell.columns.get("network") != BASE.key])
    sync(store, "mini")
    assert files(store)["report.html"].read_bytes() != text
    record(store)
    sync(store, "mini")
    assert files(store)["report.html"].read_bytes() == text
    (after,) = runs(store, "study")
    assert after.data.tags["digest"] == before.data.tags["digest"]


def test_a_figure_that_is_no_more_does_not_stay(store: Store) -> None:
    stale = files(store)["report.html"].parent / "figures" / "robustness_l7.png"
    stale.write_bytes(b"of an attack that the study has no more")
    (store.root / "studies" / ".mini.tracked").unlink()
    (study,) = runs(store, "study")
    client(store).set_tag(study.info.run_id, "digest", "of before")
    assert sync(store, "mini") == 0
    assert f"figures/{stale.name}" not in files(store)
    (made,) = runs(store, "study")
    assert made.info.run_id != study.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store, "network")} == {made.info.run_id}


def test_a_folder_that_moved_has_its_report_with_it(store: Store, tmp_path: Path) -> None:
    old = store.root
    moved = Store(old.rename(tmp_path / "moved"))
    try:
        assert sync(moved, "mini") == 0
        assert "report.html" in files(moved)
        assert not old.exists()
    finally:
        moved.root.rename(old)


def test_a_report_drawn_in_a_process_is_the_one_that_is_drawn_here(store: Store) -> None:
    here = study_run.made(store, "mini", store.studies()["mini"])
    with study_run.being_made(store, "mini") as wait:
        assert wait() == here


def test_what_a_process_can_not_draw_is_drawn_here_or_told_here(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    here = study_run.made(store, "mini", store.studies()["mini"])
    with study_run.being_made(store, "mini") as wait:
        assert wait() == here
    moved = store.root / "studies" / "mini.json"
    text = moved.read_bytes()
    moved.write_bytes(b"{")
    try:
        with study_run.being_made(store, "mini") as wait, pytest.raises(HarnessError, match="mini.json"):
            wait()
    finally:
        moved.write_bytes(text)


def test_nobody_waits_for_a_report_that_is_not_wanted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = tmp_path / "endless"
    endless.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/number\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(endless))
    with pytest.raises(KeyboardInterrupt), study_run.being_made(store, "mini"):
        while not (tmp_path / "number").exists() or not (tmp_path / "number").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "number").read_text()), 0)


def test_a_sync_takes_the_report_that_is_being_drawn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = study_run.made(store, "mini", store.studies()["mini"])
    (store.root / "studies" / ".mini.tracked").unlink()
    (study,) = runs(store, "study")
    client(store).set_tag(study.info.run_id, "digest", "of before")
    monkeypatch.setattr(study_run, "made", lambda *given: pytest.fail("drawn twice"))
    assert sync(store, "mini", drawn=lambda: replace(drawn, note="as drawn")) == 0
    (study,) = runs(store, "study")
    assert study.data.tags["mlflow.note.content"] == "as drawn"


def test_what_is_got_ready_is_a_database_without_runs(tmp_path: Path) -> None:
    store = filled(Store(tmp_path / "results"))
    get_ready(store)
    assert (store.root / "mlflow.db").stat().st_size > 0
    assert client(store).search_experiments() != [] and runs(store, "network") == []
    assert sync(store, "mini") == NETWORKS
