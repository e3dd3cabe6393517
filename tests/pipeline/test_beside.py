"""What a run does beside its work: at its beginning in a thread, at its end before the cluster is left."""

import threading
from pathlib import Path

from conftest import tiny_study

from harness.pipeline.run import Run, Silent, prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build

_BOUND = ("bound",)


def planned(folder: Path) -> Run:
    study = build({**tiny_study(), "compute": {"workers": 0}})
    return prepare(study, Store(folder), None, Silent(), _BOUND)


def test_what_will_be_needed_is_made_ready_in_a_thread_that_is_waited_for(tmp_path: Path) -> None:
    begun, done = threading.Event(), threading.Event()

    def ready() -> None:
        begun.set()
        assert threading.current_thread() is not threading.main_thread()
        done.set()

    run = planned(tmp_path)
    run.meanwhile = ready
    assert run_steps(run, _BOUND) == 4
    assert begun.is_set() and done.is_set()


def test_what_goes_wrong_in_it_harms_nothing(tmp_path: Path) -> None:
    def wrong() -> None:
        raise OSError("no database can be made")

    run = planned(tmp_path)
    run.meanwhile = wrong
    assert run_steps(run, _BOUND) == 4 and not run.failed


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
