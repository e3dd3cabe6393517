"""Trainings over Ray Tune: DDP against one worker, a killed rank, as many trials as fit."""

import os

import numpy as np
import pytest
from conftest import Silence, snapshot

from harness.cluster import rank, sweep
from harness.cluster.rank import Rank
from harness.networks.training import Training
from harness.pipeline.run import prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build

pytestmark = pytest.mark.ray


def run(tiny, results, cores, checkpoint_s=60, **base):
    compute = {"workers": cores, "checkpoint_s": checkpoint_s}
    study = build({**tiny, "base": {**tiny["base"], **base}, "compute": compute})
    run = prepare(study, Store(results), None, Silence())
    run_steps(run, ("base-network",))
    return run


@pytest.mark.parametrize(("precision", "rounding"), [("float32", 1e-4), ("bfloat16", 5e-3)])
def test_two_ranks_train_what_one_does(tiny, tmp_path, ray_session, precision, rounding):
    """120 images in batches of 32, the last of 24: equal up to the order of float sums."""
    one, two = (run(tiny, tmp_path / str(n), n, workers=max(n, 1), precision=precision) for n in (0, 2))
    assert one.plan.bases[0].cell.key == two.plan.bases[0].cell.key
    a, b = (r.store.read(r.plan.bases[0].cell) for r in (one, two))
    assert b["world_size"].to_pylist() == [2] * 4
    assert a["loss"].to_pylist()[1:] == pytest.approx(b["loss"].to_pylist()[1:], rel=rounding)
    assert a["clean_accuracy"].to_pylist() == pytest.approx(b["clean_accuracy"].to_pylist(), abs=0.026)
    first, second = (r.store.tensors(r.plan.bases[0].cell) for r in (one, two))
    for name, value in first.items():
        # Adam's steps where a gradient is close to 0 are as long as any: bfloat16 leaves the sign to chance.
        assert precision == "bfloat16" or np.allclose(value, second[name], atol=2e-4), name


def test_ranks_without_a_share_take_part(tiny, tmp_path, ray_session):
    """Batches of 7 leave a last one of 1 image, fewer than ranks."""
    one, two = (
        run(tiny, tmp_path / "one", 0, batch_size=7),
        run(tiny, tmp_path / "two", 3, batch_size=7, workers=3),
    )
    a, b = (r.store.read(r.plan.bases[0].cell)["loss"].to_pylist()[1:] for r in (one, two))
    assert a == pytest.approx(b, rel=1e-3)


class KilledOnce(Training):
    """Dies at the second epoch, once: in the process of the trial or of the rank named in the environment."""

    def run_epoch(self):
        marker = os.path.join(os.environ["HARNESS_TEST_MARKER"], "killed")
        if self.epoch == 1 and self.rank == self.world - 1 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), 9)
        return super().run_epoch()

    def restore(self, tensors, rows):
        super().restore(tensors, rows)
        open(os.path.join(os.environ["HARNESS_TEST_MARKER"], f"went on after {self.epoch}"), "w").close()


class Worker(Rank):
    """A rank whose trainings die once."""

    def open(self, network):
        rank.Training, kept = KilledOnce, rank.Training
        try:
            super().open(network)
        finally:
            rank.Training = kept


@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_training_goes_on_from_its_last_epoch(tiny, tmp_path, ray_session, monkeypatch, world):
    undisturbed = run(tiny, tmp_path / "calm", 2, workers=world)
    marker = tmp_path / "marker"
    marker.mkdir()
    monkeypatch.setattr(sweep, "Rank", _with_marker(str(marker)))
    disturbed = run(tiny, tmp_path / "killed", 2, checkpoint_s=0, workers=world)
    assert sorted(path.name for path in marker.iterdir()) == ["killed", "went on after 1"]
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "calm")
    a, b = (r.store.tensors(r.plan.bases[0].cell) for r in (undisturbed, disturbed))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def _with_marker(folder):
    class Marked(Worker):
        def __init__(self, *arguments, **named):
            os.environ["HARNESS_TEST_MARKER"] = folder
            super().__init__(*arguments, **named)

    return Marked


def test_a_training_that_does_not_fit(tiny, tmp_path, ray_session):
    from harness.errors import HarnessError

    with pytest.raises(
        HarnessError, match="a training of 3 workers with 1 cores each does not fit the 2 cores"
    ):
        run(tiny, tmp_path, 2, workers=3)
