"""What is around code that is not the harness's: seeded global generators, and a limit of time."""

import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from harness.attacks.guard import seeded, time_limit


def drawn():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


def drawn_under(*key):
    with seeded(*key):
        return drawn()


def test_generators_follow_from_seed_first_image_and_epsilon_alone():
    ids = torch.tensor([5, 9])
    first = drawn_under(7, ids, 0.1)
    drawn()
    assert drawn_under(7, ids, 0.1) == first == drawn_under(7, ids[:1], 0.1)
    keys = ((8, ids, 0.1), (7, ids + 1, 0.1), (7, ids, 0.2), (7, ids, None))
    others = [drawn_under(*key) for key in keys]
    for position in range(3):
        values = [str(draws[position]) for draws in (first, *others)]
        assert len(set(values)) == 5


def test_generators_are_as_they_were():
    def seed():
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)

    seed()
    expected = drawn()
    seed()
    with pytest.raises(ZeroDivisionError):
        with seeded(7, torch.tensor([5]), None):
            drawn()
            raise ZeroDivisionError
    assert drawn() == expected


def hang():
    """What an attack may do that catches everything it knows of."""
    end = time.monotonic() + 10  # or the tests would hang where nothing stops it
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                time.sleep(0.001)
        except Exception:
            pass


def test_what_hangs_is_stopped():
    before = signal.getsignal(signal.SIGALRM)
    message = r"mine took longer than 0.05 s for a block of images \(compute.block_limit_s\)"
    with pytest.raises(RuntimeError, match=message):
        with time_limit(0.05, "mine"):
            hang()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_alarm_that_is_lost_comes_again(monkeypatch):
    """What a finaliser raises is printed and forgotten."""
    monkeypatch.setattr("harness.attacks.guard._REPEATED_S", 0.05)
    caught = []

    def swallowing():
        try:
            hang()
        except BaseException as error:
            caught.append(error)
        hang()

    with pytest.raises(RuntimeError, match="took longer"):
        with time_limit(0.05, "mine"):
            swallowing()
    assert len(caught) == 1


def test_what_ends_in_time_is_let_alone():
    """Its value and its own errors pass, and timers that others set go on."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 1000, 5)
    try:
        with pytest.raises(ZeroDivisionError), time_limit(60, "mine"):
            raise ZeroDivisionError
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 900 < left <= 1000 and interval == 5
        with time_limit(None, "mine"):
            assert signal.getitimer(signal.ITIMER_REAL)[1] == 5
        signal.raise_signal(signal.SIGALRM)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_have_no_limit():
    ended = []

    def body():
        with time_limit(0.001, "mine"):
            time.sleep(0.02)
        ended.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert ended == [True]
