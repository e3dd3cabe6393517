"""What a run does beside its work: at its beginning in a thread, at its end before the cluster is left."""

import threading
import time
from pathlib import Path

import pytest
from conftest import tiny_study

from harness.pipeline.run import Run, Silent, prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build

_BOUND = ("bound",)


def planned(folder: Path) -> Run:
    study = build({**tiny_study(), "compute": {"workers": 0}})
    return prepare(study, Store(folder), None, Silent(), _BOUND)


def test_what_will_be_needed_is_made_ready_in_a_thread_that_is_waited_for(tmp_path: Path) -> None:
    made, done = threading.Event(), []

    def ready() -> None:
        assert made.wait(60)  # in the main thread nobody would ever set it
        time.sleep(0.3)  # it is still at it when all cells are made
        done.append(threading.current_thread())

    run = planned(tmp_path)
    run.meanwhile = ready
    assert run_steps(run, _BOUND, made.set) == 4
    assert len(done) == 1 and done[0] is not threading.main_thread()


def test_what_goes_wrong_in_it_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def wrong() -> None:
        raise OSError("no database can be made")

    run = planned(tmp_path)
    run.meanwhile = wrong
    assert run_steps(run, _BOUND) == 4 and not run.failed
    assert told == []  # no traceback, which nobody could make anything of


def test_the_end_is_told_once_where_something_was_made(tmp_path: Path) -> None:
    told: list[int] = []

    def at_end() -> None:
        told.append(len(run.missing(run.plan.of_images)))

    run = planned(tmp_path)
    run_steps(run, _BOUND, at_end)
    assert told == [0]
    run = planned(tmp_path)
    run_steps(run, _BOUND, at_end)
    assert told == [0]
