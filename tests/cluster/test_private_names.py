"""Where Ray or Tune has no longer a name that is not public, what stands in for it says the same."""

import sys

import pytest

from harness.cluster import connection


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """The folder of what `ray start` leaves on a machine that it makes a part of a cluster."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.mark.parametrize("is_there", [True, False])
def test_the_address_that_a_machine_has_joined(joined, monkeypatch, is_there):
    import ray._private.utils

    if not is_there:
        monkeypatch.delattr(ray._private.utils, "read_ray_address")
    assert connection._joined_address() is None
    joined.write_text("192.0.2.7:6379\n")
    assert connection._joined_address() == "192.0.2.7:6379"


def test_where_the_whole_module_is_gone(joined, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray._private.utils", None)
    joined.write_text("192.0.2.7:6379")
    assert connection._joined_address() == "192.0.2.7:6379"


class Named:
    """A trial of Tune that has some of the methods which say what failed."""

    def __init__(self, **answers):
        for name, answer in answers.items():
            setattr(self, name, lambda answer=answer: answer)


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        (Named(get_pickled_error=ValueError("too\nlong "), get_error="another"), "too\nlong"),
        (Named(get_pickled_error=None, get_error="of Tune's file\n"), "of Tune's file"),
        (Named(get_error="of Tune's file"), "of Tune's file"),
        (Named(get_pickled_error=ValueError("kept")), "kept"),
        (Named(get_pickled_error=None), ""),
        (Named(), ""),
    ],
)
def test_the_last_error_of_a_trial(trial, told):
    from harness.cluster.trial import _error_of

    assert _error_of(trial) == told


def test_tune_has_both_names():
    """Of the version that is tested: neither stands in for the other unseen."""
    from ray.tune.experiment import Trial

    assert callable(Trial.get_pickled_error) and callable(Trial.get_error)
