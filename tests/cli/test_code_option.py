"""``--code``: where every command that reads a study finds packages that are not installed."""

import os
import sys

import pytest
from commands import call, refused

from harness import extensions
from harness.cli import job, main
from harness.pipeline.steps import STEPS


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(extensions.code, "_folders", [])


@pytest.fixture
def folders(tmp_path):
    """Two folders, a package of one name in each."""
    for name in ("one", "two"):
        (tmp_path / name / "mine").mkdir(parents=True)
        (tmp_path / name / "mine/__init__.py").write_text(f"WHOSE = '{name}'")
    return tmp_path / "one", tmp_path / "two"


def test_all_that_read_a_study_take_it():
    taking = {name for name, command in main.commands.items() if "code" in {p.name for p in command.params}}
    assert taking == {"run", *(step.name for step in STEPS), "plan", "rekey", "show", "validate", "verify"}


def test_it_is_searched_before_all_else(folders):
    one, two = folders
    before = sys.path.copy()
    assert call("show", "quick")[0] == 0
    assert sys.path == before
    assert call("show", "quick", "--code", one, "--code", two)[0] == 0
    assert sys.path == [str(one), str(two), *before]
    assert extensions.shipped(["mine"]) == {"mine": one / "mine"}


def test_from_the_environment(folders, monkeypatch):
    monkeypatch.setenv("HARNESS_CODE", os.pathsep.join(map(str, folders)))
    assert call("show", "quick")[0] == 0
    assert sys.path[:2] == [str(folder) for folder in folders]


def test_what_is_no_folder(folders, tmp_path):
    missing = refused("run", "quick", "--code", tmp_path / "none", "--results", tmp_path / "r")
    assert "Directory" in missing and "none' does not exist" in missing
    assert "is a file" in refused("show", "quick", "--code", folders[0] / "mine/__init__.py")
    assert not (tmp_path / "r").exists()


def test_jobs_take_it(folders, monkeypatch):
    """Before the study is read, whose mistake ends this one."""
    monkeypatch.setattr(sys, "argv", ["study.py", "--code", str(folders[0]), "--study", "quik"])
    with pytest.raises(SystemExit) as end:
        job.run("run")
    assert (end.value.code, sys.path[0]) == (2, str(folders[0]))
