"""A whole study: its rows against numbers recomputed from what was saved; resumed, and again."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Silence, run_study, snapshot, tiny_study

from harness.attacks import ATTACKS
from harness.cluster import rank
from harness.data import datasets
from harness.defenses import DEFENSES
from harness.errors import HarnessError
from harness.evaluation import tester
from harness.evaluation.blocks import BATCHES_PER_BLOCK, attack_block, blocks
from harness.networks.build import build as build_network
from harness.networks.classifier import from_tensors, predict
from harness.networks.training import Training
from harness.pipeline.run import prepare, run_steps
from harness.pipeline.steps import ALL_STEPS
from harness.report.database import connect, query
from harness.results.cells import tensors_path
from harness.results.store import Store
from harness.results.verification import verify
from harness.seeds import derive
from harness.study.reading import build


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny study, run once without Ray."""
    data = tiny_study()
    results = tmp_path_factory.mktemp("finished")
    return run_study(data, results), data, results


def model(run, network):
    pixels = run.dataset.train.pixels
    fresh = build_network(network.architecture, pixels, len(run.dataset.classes), 0)
    return from_tensors(fresh, run.store.tensors(network.cell), torch.device("cpu"))


def test_the_attack_with_the_longest_blocks_is_made_first(finished):
    run, data, _ = finished
    assert [*data["attacks"]] == ["fgsm", "deepfool"]
    attacked = dict.fromkeys(note for step, note in run.progress.notes if step == "attack")
    assert [*attacked][0].startswith("deepfool")


def test_all_cells_are_there_and_whole(finished):
    run, _, results = finished
    recorded = run.store.studies()["tiny"]["cells"]
    assert len(recorded) == 4 + 4 + 4 + 16 + 4
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
        predicted = predict(model(run, evaluation.network), images, 40, torch.device("cpu"))
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
            f1 = model(run, attack.network)
            assert (
                rows["adversarial_predicted"].to_pylist()
                == predict(f1, saved, 16, torch.device("cpu")).tolist()
            )
            assert (
                rows["predicted"].to_pylist() == predict(f1, images.pixels, 16, torch.device("cpu")).tolist()
            )


def test_again_makes_nothing_and_needs_no_data(finished, monkeypatch):
    _, data, results = finished
    before = snapshot(results)
    monkeypatch.setattr(datasets, "load", lambda *_: pytest.fail("a finished study loads no images"))
    silence = Silence()
    run = prepare(build(data), Store(results), None, silence)
    assert run_steps(run) == 0
    assert snapshot(results) == before
    assert all(total == 0 for _, total, _ in silence.begun)


def test_what_is_lost_is_made_again_the_same(finished, tmp_path):
    """Delete one cell of each kind: exactly those are remade, and the values are those that were there."""
    run, data, results = finished
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    before = snapshot(copy)
    lost = [
        run.plan.bounds["test"],
        run.plan.attacks[1].cells[0],
        run.plan.defended[1].cell,
        run.plan.black_box[5].cell,
    ]
    for cell in lost:
        (copy / cell.path).unlink()
    again = prepare(build(data), Store(copy), None, Silence())
    assert run_steps(again) == 4
    assert snapshot(copy) == before


def test_another_epsilon_leaves_the_finished_one_alone(finished, tmp_path):
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


@pytest.mark.parametrize(("step", "first"), [(step, "base-network") for step in ALL_STEPS[2:]])
def test_a_step_alone_names_what_it_lacks(tiny, tmp_path, step, first):
    everything = {**tiny, "certify": {}, "checks": {"enabled": True}}
    run = prepare(build(everything), Store(tmp_path), None, Silence())
    with pytest.raises(
        HarnessError, match=f"'{step}' starts from what '{first}' makes.*harness {first} tiny"
    ):
        run_steps(run, (step,))


def test_steps_one_by_one_equal_the_whole(finished, tiny, tmp_path):
    _, _, results = finished
    for step in reversed(ALL_STEPS[:2]):  # base needs no bound
        run_steps(prepare(build(tiny), Store(tmp_path), None, Silence()), (step,))
    for step in ALL_STEPS[2:]:
        run_steps(prepare(build(tiny), Store(tmp_path), None, Silence()), (step,))
    assert snapshot(tmp_path) == snapshot(results)


@pytest.mark.parametrize("moment", ["attack", "epoch", "evaluation"])
def test_interrupted_anywhere_ends_the_same(finished, tiny, tmp_path, monkeypatch, moment):
    _, _, results = finished
    target = {"attack": "attack_block", "evaluation": "predict"}.get(moment)
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
            patch.setattr(tester, target, stop(getattr(tester, target)))
        else:
            patch.setattr(Training, "run_epoch", stop(Training.run_epoch))
        with pytest.raises(KeyboardInterrupt):
            run_study(tiny, tmp_path)
    done = set(snapshot(tmp_path))
    again = prepare(build(tiny), Store(tmp_path), None, Silence())
    assert run_steps(again) == len(snapshot(tmp_path)) - len(done)
    assert snapshot(tmp_path) == snapshot(results)


def diverging(monkeypatch, k):
    """The defense with this k has a loss of nan."""
    method = DEFENSES["imperceptible_bound"]
    original = method.objective

    def objective(self, inputs, seed):
        made = original(self, inputs, seed)
        if self.k != k:
            return made
        return replace(made, loss=lambda *arguments: made.loss(*arguments) * torch.nan)

    monkeypatch.setattr(method, "objective", objective)


def test_what_fails_is_a_hole_until_a_next_run_makes_it(finished, tiny, tmp_path, monkeypatch):
    """The other training goes on, and what needs the failed one says so."""
    _, _, results = finished
    with monkeypatch.context() as patch:
        diverging(patch, k=1)
        run = run_study(tiny, tmp_path)
    reason = "the loss of epoch 1 is nan: training diverged (learning rate 0.001)"
    waiting = f"needs 'imperceptible bound k=1 n=2', which failed: {reason}"
    attacked = ("clean images", "fgsm 0.1", "fgsm 0.3", "deepfool", "pgd 0.1 in steps of 0.025")
    assert {title: failure.reason for title, failure in run.failed.items()} == {
        "imperceptible bound k=1 n=2": reason,
        **{f"imperceptible bound k=1 n=2 against {attack}": waiting for attack in attacked},
    }  # fmt: skip
    holes = set(snapshot(results)) - set(snapshot(tmp_path))
    lost = run.plan.defended[0].cell
    assert {
        str(lost.path),
        *(str(e.cell.path) for e in run.plan.black_box if e.network.cell == lost),
    } <= holes
    assert {
        path: snapshot(results)[path] for path in snapshot(tmp_path) if path in snapshot(results)
    }.items() <= snapshot(tmp_path).items()
    again = run_study(tiny, tmp_path)
    assert again.failed == {}
    assert snapshot(results).items() <= snapshot(tmp_path).items()
    assert not list((tmp_path / "failures").rglob("*.json"))


def test_where_the_base_network_fails_the_bound_is_made(tiny, tmp_path, monkeypatch):
    def objective(inputs):
        raise ValueError("no such layer")

    monkeypatch.setattr(rank, "supervised", objective)
    run = run_study(tiny, tmp_path)
    assert run.failed["base"].reason == "ValueError: no such layer"
    waiting = {failure.reason for failure in run.failed.values() if failure.waits}
    assert waiting == {"needs 'base', which failed: ValueError: no such layer"}, "the cause stands once"
    assert (
        len(run.failed) == 1 + 4 + 2 + 1 + 16 + 4
    )  # base, attacks, defenses, baseline, black box, white box
    assert {path.split("/")[0] for path in snapshot(tmp_path)} == {"bound", "classes", "sample"}


def test_an_attack_that_raises_fails_alone(tiny, tmp_path, monkeypatch):
    def broken(*arguments, **named):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(ATTACKS["deepfool"], "perturb", broken)
    run = run_study(tiny, tmp_path)
    assert run.failed["deepfool on test images"].reason == "RuntimeError: shapes differ"
    with connect(run.store) as connection:
        (detail,) = query(connection, "select detail from cells where not waits")["detail"].to_pylist()
    assert 'raise RuntimeError("shapes differ")' in detail and "test_pipeline.py" in detail
    assert set(run.failed) == {
        "deepfool on test images",
        *(f"{n.title} against deepfool" for n in run.plan.networks),
    }


# --- the white box --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A study whose white box takes both of its attacks beside PGD, and keeps the images."""
    results = tmp_path_factory.mktemp("white_box")
    white_box = {"epsilon": [0.1], "step_divisors": [4], "steps": 3, "attacks": ["fgsm", "deepfool"]}
    return run_study(tiny_study(), results, white_box={**white_box, "keep_images": True})


def test_any_attack_on_any_network_is_measured_as_on_the_base_network(attacked):
    run = attacked
    assert run.failed == {}
    clean, images = run.dataset.test.pixels / np.float32(255), run.dataset.test
    for attack in run.plan.white_box:
        network = model(run, attack.network)
        for cell in attack.cells:
            rows, made = run.store.read(cell), run.store.tensors(cell)["adversarial"]
            assert rows["prediction"].to_pylist() == predict(network, made, 4, torch.device("cpu")).tolist()
            change = np.abs(made.astype(np.float64) - clean).reshape(len(clean), -1)
            assert rows["linf"].to_numpy() == pytest.approx(change.max(1))
            assert rows["mean_l1"].to_numpy() == pytest.approx(change.mean(1))
            assert min(rows["attack_s"].to_pylist()) > 0
            by_hand = perturbed(network, images, attack, cell.columns["epsilon"])
            assert np.array_equal(made, by_hand)


def perturbed(network, images, attack, epsilon):
    """The attack made by hand, block by block, at one epsilon: in whatever company it is the same."""
    settings = attack.settings.with_epsilons((epsilon,))
    seed = derive(attack.network.seed, *attack.draws)
    pieces = [
        attack_block(network, images.take(block), settings, "prediction", seed, 4)[0][1]
        for block in blocks(len(images.ids), BATCHES_PER_BLOCK * 4)
    ]
    return np.concatenate(pieces)


def test_what_was_made_on_the_base_network_is_its_white_box(attacked):
    run = attacked
    assert len(run.plan.measured) == 3
    for evaluation in run.plan.measured:
        rows, made = run.store.read(evaluation.cell), run.store.read(evaluation.images)
        assert rows["prediction"].equals(made["adversarial_predicted"])
        assert all(rows[name].equals(made[name]) for name in ("image_id", "l0", "mean_l1", "l2", "linf"))


def test_white_box_norms_are_null_elsewhere(attacked):
    clean = next(e.cell for e in attacked.plan.black_box if e.images is None)
    rows = attacked.store.read(clean)
    assert {rows[name].null_count for name in ("l0", "mean_l1", "l2", "linf", "attack_s")} == {len(rows)}


def test_the_white_box_of_some_of_the_test_images(tiny, tmp_path):
    """The same images for every network, in each class's share; the black box keeps all."""
    tiny["dataset"]["white_box_limit"] = 20
    white_box = {"attacks": ["fgsm"], "own": {"apgd_ce": {"epsilon": [0.1], "steps": 3}}}
    tiny["white_box"].update(white_box, keep_images=True)
    run = run_study(tiny, tmp_path, seeds=[0, 1], controls={"twin": True}, checks={"images": 10})
    assert run.failed == {}
    attacked, test = run.dataset.of("white_box"), run.dataset.test
    assert np.bincount(attacked.labels).tolist() == [2] * 10
    assert set(attacked.ids.tolist()) < set(test.ids.tolist())
    for cell in run.plan.cells():
        if cell.table == "evaluation":
            of = attacked if cell.partition["access"] == "white_box" else test
            rows = run.store.read(cell)
            assert rows["image_id"].to_pylist() == of.ids.tolist(), cell.title
            assert rows["label"].to_pylist() == of.labels.tolist()
    with connect(run.store) as connection:
        robust = query(connection, "from robust").to_pylist()
        checks = query(connection, "from check_results where \"check\" = 'validity'").to_pylist()
    assert {(row["images"], row["is_complete"]) for row in robust if row["epsilon"] == 0.1} == {(20, True)}
    assert {row["verdict"] for row in checks} == {"pass"}


def test_a_white_box_of_all_images_is_the_one_without_a_limit(finished):
    run, data, _ = finished
    whole = build({**data, "dataset": {**data["dataset"], "white_box_limit": 40}})
    assert np.array_equal(datasets.load(whole.dataset, None).of("white_box").ids, run.dataset.test.ids)
    assert run.dataset.white_box is None


# --- weights from outside ---------------------------------------------------------------------------------


def test_a_network_that_comes_with_its_weights(finished, tiny, tmp_path):
    """The base network's own weights: as a finished model, and as a base network of no epochs."""
    run, _, results = finished
    weights = tmp_path / "theirs.safetensors"
    base = run.plan.bases[0].cell
    weights.write_bytes((results / tensors_path(base.path)).read_bytes())
    theirs = {**tiny["network"], "weights": str(weights)}
    made = run_study(
        tiny,
        tmp_path / "results",
        network=theirs,
        base={"epochs": 0},
        models={"theirs": theirs},
        defenses={"trades": {"epsilon": 0.1, "epochs": 1, "steps": 1}},
    )
    assert made.failed == {}
    predictions = {
        (cell.columns["name"], cell.partition["access"], cell.columns["attack"], cell.columns["epsilon"]): (
            made.store.read(cell)["prediction"].to_pylist()
        )
        for cell in made.plan.cells()
        if cell.table == "evaluation"
    }
    # White box: PGD's random start is of the seed, and no network's own.
    for (name, *images), predicted in predictions.items():
        if name != "base":
            assert name == "theirs" or name.startswith("trades")
            assert name != "theirs" or predicted == predictions["base", *images]
    before = {evaluation.cell.title: evaluation.cell for evaluation in run.plan.black_box}
    for evaluation in made.plan.black_box:
        if evaluation.network.name == "base":
            old = run.store.read(before[evaluation.cell.title])
            assert made.store.read(evaluation.cell)["prediction"].equals(old["prediction"])


# --- over Ray -------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_the_number_of_workers_changes_no_number(finished, tiny, tmp_path, ray_session):
    """This process alone against two workers on Ray: every value of every table, and the weights, bit for
    bit.
    """
    _, _, results = finished
    run_study(tiny, tmp_path, compute={"workers": 2})
    assert snapshot(tmp_path) == snapshot(results)
    for cell in Store(tmp_path).studies()["tiny"]["cells"]:
        path = tmp_path / tensors_path(Path(cell["path"]))
        assert not path.exists() or path.read_bytes() == (results / path.relative_to(tmp_path)).read_bytes()


# --- seeds, steps alone ---------------------------------------------------------------------------------


def test_each_seed_is_what_it_is_alone(finished, tiny, tmp_path):
    """A study of two seeds holds the cells of the study of one, and shares images and bound."""
    _, _, results = finished
    run = run_study(tiny, tmp_path, seeds=[1, 0])
    alone, both = snapshot(results), snapshot(tmp_path)
    assert alone.items() <= both.items()
    assert len(both) == 2 * len(alone) - 4
    assert run.failed == {}


def test_an_ensemble_is_trained_beside_base_networks_of_other_seeds(tiny, tmp_path):
    defenses = {
        "ensemble": {"epsilon": 0.1, "epochs": 1},
        "trades": {"epsilon": 0.1, "epochs": 1, "steps": 2},
    }
    run = run_study(tiny, tmp_path, seeds=[0, 1], defenses={**defenses, "pgd_training": defenses["trades"]})
    assert run.failed == {}
    methods = [network.method for network in run.plan.defended]
    assert methods == ["ensemble", "trades", "pgd_training"] * 2
    assert run.missing(run.plan.cells()) == []


def test_the_bound_alone_asks_for_no_weights(tiny, tmp_path):
    """VGG16's ImageNet weights are not there: a run of all steps says so before any work, the bound's does
    not.
    """
    network = {"architecture": "vgg16", "pretrained": True, "weights": str(tmp_path / "none.safetensors")}
    study, store = build({**tiny, "network": network}), Store(tmp_path / "results")
    run = prepare(study, store, None, Silence(), ("bound",))
    assert run_steps(run, ("bound",)) == 4
    tables = {cell["table"] for cell in store.studies()["tiny"]["cells"]}
    assert tables == {"bound", "classes", "sample"}
    with pytest.raises(HarnessError, match="weights: no file"):
        prepare(study, store, None, Silence())


def test_the_bound_alone_leaves_what_is_recorded_of_a_study(finished, tiny, tmp_path):
    _, _, results = finished
    shutil.copytree(results, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    before = store.studies()
    run = prepare(build(tiny), store, None, Silence(), ("bound",))
    assert run_steps(run, ("bound",)) == 0
    assert store.studies() == before


def test_the_bound_alone_of_other_images_is_recorded(finished, tiny, tmp_path):
    """Else the tables would go on showing the bound of the images from before."""
    _, _, results = finished
    shutil.copytree(results, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    fewer = build({**tiny, "dataset": {**tiny["dataset"], "train_limit": 100}})
    run = prepare(fewer, store, None, Silence(), ("bound",))
    assert run_steps(run, ("bound",)) == 3, "the classes are the same"
    recorded = store.studies()["tiny"]
    assert recorded["study"]["dataset"]["train_limit"] == 100
    assert {cell["path"] for cell in recorded["cells"]} == {
        cell.path.as_posix() for cell in run.plan.of_images
    }
