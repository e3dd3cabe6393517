"""A whole study: its rows against numbers recomputed from what was saved; resumed, and again."""

import numpy as np
import pytest
import torch
from conftest import Silence, run_study, snapshot

from harness import networks, pipeline, spec
from harness.audit import verify
from harness.errors import HarnessError
from harness.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny study, run once without Ray."""
    from conftest import tiny as fixture

    data = fixture.__wrapped__() if hasattr(fixture, "__wrapped__") else fixture.__pytest_wrapped__.obj()
    results = tmp_path_factory.mktemp("finished")
    return run_study(data, results), data, results


def model(run, network):
    pixels = run.dataset.train.pixels
    fresh = networks.build(run.study.network, pixels, len(run.dataset.classes), 0)
    return networks.from_tensors(fresh, run.store.tensors(network.cell), torch.device("cpu"))


def test_all_cells_are_there_and_whole(finished):
    run, _, results = finished
    recorded = run.store.studies()["tiny"]["cells"]
    assert len(recorded) == 2 + 4 + 4 + 16 + 2
    assert all((results / cell["path"]).exists() for cell in recorded)
    assert [damage for _, damage in verify(run.store) if damage] == []
    assert not list(results.rglob("*.checkpoint")) + list(results.rglob("*.tmp"))


def test_evaluations_equal_what_the_saved_weights_say_of_the_saved_images(finished):
    run, _, _ = finished
    for evaluation in run.plan.black_box:
        rows = run.store.read(evaluation.cell)
        images = (
            run.dataset.test.pixels
            if evaluation.images is None
            else run.store.tensors(evaluation.images)["adversarial"]
        )
        predicted = networks.predict(model(run, evaluation.network), images, 40, torch.device("cpu"))
        assert rows["prediction"].to_pylist() == predicted.tolist()
        assert rows["label"].to_pylist() == run.dataset.test.labels.tolist()
        assert rows["image_id"].to_pylist() == run.dataset.test.ids.tolist()


def test_attack_rows_are_measured_on_the_saved_images(finished):
    run, _, _ = finished
    for attack in run.plan.attacks:
        images = getattr(run.dataset, attack.split)
        for cell in attack.cells:
            rows, saved = run.store.read(cell), run.store.tensors(cell)["adversarial"]
            assert saved.dtype == np.float32
            change = np.abs(saved.astype(np.float64) - (images.pixels.astype(np.float32) / np.float32(255)))
            flat = change.reshape(len(saved), -1)
            assert np.allclose(rows["mean_l1"].to_numpy(), flat.mean(1), atol=1e-9)
            assert np.allclose(rows["linf"].to_numpy(), flat.max(1), atol=1e-9)
            assert np.allclose(rows["l2"].to_numpy(), np.sqrt((flat**2).sum(1)), atol=1e-9)
            assert rows["l0"].to_pylist() == (flat > 0).sum(1).tolist()
            f1 = model(run, run.plan.base)
            assert (
                rows["adversarial_predicted"].to_pylist()
                == networks.predict(f1, saved, 16, torch.device("cpu")).tolist()
            )
            assert (
                rows["predicted"].to_pylist()
                == networks.predict(f1, images.pixels, 16, torch.device("cpu")).tolist()
            )


def test_the_strongest_is_the_best_on_clean_images(finished):
    run, _, _ = finished
    accuracy = {}
    for evaluation in run.plan.black_box:
        if evaluation.images is None and evaluation.network.kind == "vib":
            rows = run.store.read(evaluation.cell)
            accuracy[evaluation.network.cell.key] = np.mean(
                rows["prediction"].to_numpy() == rows["label"].to_numpy()
            )
    _, best = pipeline.strongest(run)
    assert accuracy[best.cell.key] == max(accuracy.values())


def test_again_makes_nothing_and_needs_no_data(finished, monkeypatch):
    _, data, results = finished
    before = snapshot(results)
    monkeypatch.setattr("harness.datasets.load", lambda *_: pytest.fail("a finished study loads no images"))
    silence = Silence()
    run = pipeline.prepare(spec.build(data), Store(results), None, silence)
    assert pipeline.run_steps(run) == 0
    assert snapshot(results) == before
    assert all(total == 0 for _, total, _ in silence.begun)


def test_what_is_lost_is_made_again_the_same(finished, tmp_path):
    """Delete one cell of each kind: exactly those are remade, and the values are those that were there."""
    import shutil

    run, data, results = finished
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    before = snapshot(copy)
    lost = [
        run.plan.bounds["test"],
        run.plan.attacks[1].cells[0],
        run.plan.defenses[1].cell,
        run.plan.black_box[5].cell,
    ]
    for cell in lost:
        (copy / cell.path).unlink()
    again = pipeline.prepare(spec.build(data), Store(copy), None, Silence())
    assert pipeline.run_steps(again) == 4
    assert snapshot(copy) == before


def test_another_epsilon_leaves_the_finished_one_alone(finished, tmp_path):
    import shutil

    _, data, results = finished
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    attacks = {**data["attacks"], "fgsm": {"epsilon": [0.1, 0.2, 0.3]}}
    run = run_study(data, copy, attacks=attacks)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    together = run_study(data, tmp_path / "together", attacks=attacks)
    (made,) = [
        c for a in run.plan.attacks if a.split == "test" for c in a.cells if c.columns["epsilon"] == 0.2
    ]
    assert np.array_equal(run.store.tensors(made)["adversarial"], together.store.tensors(made)["adversarial"])


@pytest.mark.parametrize(("step", "first"), [(step, "base-network") for step in pipeline.ALL_STEPS[2:]])
def test_a_step_alone_names_what_it_lacks(tiny, tmp_path, step, first):
    run = pipeline.prepare(spec.build(tiny), Store(tmp_path), None, Silence())
    with pytest.raises(
        HarnessError, match=f"'{step}' starts from what '{first}' makes.*harness {first} tiny"
    ):
        pipeline.run_steps(run, (step,))


def test_steps_one_by_one_equal_the_whole(finished, tiny, tmp_path):
    _, _, results = finished
    for step in reversed(pipeline.ALL_STEPS[:2]):  # base needs no bound
        pipeline.run_steps(pipeline.prepare(spec.build(tiny), Store(tmp_path), None, Silence()), (step,))
    for step in pipeline.ALL_STEPS[2:]:
        pipeline.run_steps(pipeline.prepare(spec.build(tiny), Store(tmp_path), None, Silence()), (step,))
    assert snapshot(tmp_path) == snapshot(results)


@pytest.mark.parametrize("moment", ["attack", "epoch", "evaluation"])
def test_interrupted_anywhere_ends_the_same(finished, tiny, tmp_path, monkeypatch, moment):
    _, _, results = finished
    from harness import training

    target = {"attack": "attack_block", "evaluation": "white_box_block"}.get(moment)
    calls = 0

    def stop(original):
        def wrapped(*arguments):
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt
            return original(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        if target:
            from harness import evaluation

            patch.setattr(evaluation, target, stop(getattr(evaluation, target)))
        else:
            patch.setattr(training.Training, "run_epoch", stop(training.Training.run_epoch))
        with pytest.raises(KeyboardInterrupt):
            run_study(tiny, tmp_path)
    done = set(snapshot(tmp_path))
    again = pipeline.prepare(spec.build(tiny), Store(tmp_path), None, Silence())
    assert pipeline.run_steps(again) == len(snapshot(tmp_path)) - len(done)
    assert snapshot(tmp_path) == snapshot(results)


def diverging(monkeypatch, k):
    """The defense with this k has a loss of nan."""
    from harness import defense, sweep

    original = defense.objective

    def objective(inputs, settings):
        made = original(inputs, settings)
        return (
            made
            if settings["k"] != k
            else type(made)(made.samples, made.batch, lambda logits, _: logits.sum(1) * torch.nan)
        )

    monkeypatch.setitem(sweep.OBJECTIVES, "vib", objective)


def test_what_fails_is_a_hole_until_a_next_run_makes_it(finished, tiny, tmp_path, monkeypatch):
    """The other training goes on, is the strongest, and what needs the failed one says so."""
    _, _, results = finished
    with monkeypatch.context() as patch:
        diverging(patch, k=1)
        run = run_study(tiny, tmp_path)
    reason = "the loss of epoch 1 is nan: training diverged (learning rate 0.001)"
    waiting = f"needs 'vib k=1 n=2', which failed: {reason}"
    attacked = ("clean images", "fgsm 0.1", "fgsm 0.3", "deepfool")
    assert {title: failure.reason for title, failure in run.failed.items()} == {
        "vib k=1 n=2": reason, **{f"vib k=1 n=2 against {attack}": waiting for attack in attacked},
    }  # fmt: skip
    holes = set(snapshot(results)) - set(snapshot(tmp_path))
    lost = run.plan.defenses[0].cell
    assert {
        str(lost.path),
        *(str(e.cell.path) for e in run.plan.black_box if e.network.cell == lost),
    } <= holes
    assert pipeline.strongest(run) == (True, run.plan.defenses[1])
    assert {
        path: snapshot(results)[path] for path in snapshot(tmp_path) if path in snapshot(results)
    }.items() <= snapshot(tmp_path).items()
    again = run_study(tiny, tmp_path)
    assert again.failed == {}
    assert snapshot(results).items() <= snapshot(tmp_path).items()
    assert not list(tmp_path.rglob("*.failed.json"))


def test_where_the_base_network_fails_the_bound_is_made(tiny, tmp_path, monkeypatch):
    from harness import sweep

    def objective(inputs, settings):
        raise ValueError("no such layer")

    monkeypatch.setitem(sweep.OBJECTIVES, "base", objective)
    run = run_study(tiny, tmp_path)
    assert run.failed["base"].reason == "ValueError: no such layer"
    assert (
        len(run.failed) == 1 + 4 + 2 + 1 + 16 + 1
    )  # base, attacks, defenses, baseline, black box, white box of f1
    assert {path.split("/")[0] for path in snapshot(tmp_path)} == {"bound"}


def test_an_attack_that_raises_fails_alone(tiny, tmp_path, monkeypatch):
    from harness import attacks

    def broken(*arguments, **named):
        raise RuntimeError("shapes differ")

    monkeypatch.setitem(attacks.ATTACKS, "deepfool", broken)
    run = run_study(tiny, tmp_path)
    assert run.failed["deepfool on test images"].reason == "RuntimeError: shapes differ"
    assert set(run.failed) == {
        "deepfool on test images",
        *(f"{n.title} against deepfool" for n in run.plan.networks),
    }


# --- over Ray -------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_the_number_of_workers_changes_no_number(finished, tiny, tmp_path, ray_session):
    """This process alone against two workers on Ray: every value of every table, and the weights, bit for bit."""
    _, _, results = finished
    run_study(tiny, tmp_path, compute={"workers": 2})
    assert snapshot(tmp_path) == snapshot(results)
    for cell in Store(tmp_path).studies()["tiny"]["cells"]:
        path = (tmp_path / cell["path"]).with_suffix(".safetensors")
        assert not path.exists() or path.read_bytes() == (results / path.relative_to(tmp_path)).read_bytes()
