"""A finished study run again: nothing is planned or imported that computes, unless something has changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import call
from conftest import tiny_study

from harness.pipeline import finished
from harness.results.store import Store

_AGAIN = """
import sys
from harness.cli import main
try:
    main(["run", sys.argv[1], "--results", sys.argv[2]])
finally:
    print(sorted({"torch", "ray", "sklearn", "mlflow", "pandas", "scipy"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The tiny study's file, and its results."""
    folder = tmp_path_factory.mktemp("finished")
    study = folder / "tiny.yaml"
    study.write_text(yaml.safe_dump(tiny_study()))
    code, said = call("run", study, "--results", folder / "results")
    assert code == 0 and "32 cells made" in said
    return study, folder / "results"


def found(study, results, changes=(), steps=("bound", "attack", "white-box")):
    return finished.find(Store(results), finished.given(str(study), changes, None), steps)


def test_it_imports_nothing_that_computes(ran):
    again = subprocess.run(
        [sys.executable, "-c", _AGAIN, *map(str, ran)],
        env={name: value for name, value in os.environ.items() if name != "HARNESS_DATA"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    assert "bound        nothing to do, 4 cells were there" in again.stdout
    assert "0 cells made, 0 MLflow runs written" in again.stdout
    assert "Table III: effectiveness" in again.stdout
    assert again.stdout.splitlines()[-1] == "[]"


def test_what_was_planned_otherwise_is_not_found(ran, tmp_path, monkeypatch):
    study, results = ran
    assert found(study, results).cells == {"bound": 4, "attack": 4, "white-box": 4}
    assert found(study, results, ("base.epochs=4",)) is None
    other = tmp_path / "tiny.yaml"
    other.write_text(study.read_text().replace("epochs: 3", "epochs: 4"))
    assert found(other, results) is None
    monkeypatch.setattr(finished, "_versions", lambda: {"torch": "99"})
    assert found(study, results) is None


def test_a_cell_that_is_gone_is_made_again(ran):
    study, results = ran
    lost = next((results / "attack").rglob("*.parquet"))
    whole = lost.read_bytes()
    lost.unlink()
    assert found(study, results) is None and found(study, results, steps=("bound",)) is not None
    lost.write_bytes(whole[:-1])
    assert found(study, results) is None
    lost.unlink()
    code, said = call("run", study, "--results", results)
    assert code == 0 and "1 cells made" in said
    assert found(study, results) is not None


def test_another_record_is_none_of_this_plan(ran):
    study, results = ran
    record = results / "studies" / "tiny.json"
    before = record.read_bytes()
    record.write_bytes(before.replace(b'"seeds"', b'"sEeds"'))
    assert found(study, results) is None
    record.write_bytes(before)
    assert found(study, results) is not None


def test_data_that_changed_is_read_again(ran, tmp_path):
    """Of the same size, and with the old time put back."""
    study, results = ran
    data = tmp_path / "images"
    data.write_bytes(b"0123")
    digest = finished.given(str(study), (), None)
    note = finished._path(results, digest)
    before = note.read_text()
    named = f'"files": {{"{data}": {list(finished._state(data))}}}'
    note.write_text(before.replace('"files": {}', named))
    assert named in note.read_text() and found(study, results) is not None
    times = data.stat()
    data.write_bytes(b"4567")
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert found(study, results) is None
    data.unlink()
    assert found(study, results) is None
    note.write_text(before)


def test_a_run_that_failed_leaves_no_note(tmp_path, monkeypatch):
    from harness.attacks.deepfool import DeepFool

    def raising(*arguments):
        raise RuntimeError("no")

    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(tiny_study()))
    with monkeypatch.context() as patch:
        patch.setattr(DeepFool, "perturb", raising)
        assert call("run", study, "--results", tmp_path / "r")[0] == 1
    assert not list(Path(tmp_path, "r", "studies").glob(".*.finished"))
