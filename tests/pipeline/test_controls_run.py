"""A study of two seeds with all its controls and a validation split, run: what is copied, what is chosen."""

import numpy as np
import pytest
from conftest import run_study, snapshot, tiny_study

from harness.neighbours.growth import BoundModel, Curve
from harness.pipeline.recompute import recompute
from harness.pipeline.run import Silent, check, keep_record, price
from harness.report.database import connect, query
from harness.report.tables import laid_out
from harness.results.store import Store
from harness.study import costs
from harness.study.rates import Rate, Rates
from harness.study.reading import build


def with_controls():
    return {
        **tiny_study(),
        "seeds": [0, 1],
        "batch_size": 20,
        "dataset": {"source": "digits", "train_limit": 80, "validation_limit": 20, "test_limit": 20},
        "base": {"epochs": 6, "learning_rate": 0.02, "batch_size": 16},
        "attacks": {"fgsm": {"epsilon": [0.1]}},
        "controls": {"pgd_training": {"epochs": 1, "steps": 2}},
        "defenses": {"imperceptible_bound": {"k": [1, 2], "n": [1], "epochs": 1, "learning_rate": 0.01}},
        "white_box": {"epsilon": [0.1], "step_divisors": [4], "steps": 2, "attacks": ["fgsm"]},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_study(with_controls(), tmp_path_factory.mktemp("controls"))


@pytest.fixture(scope="module")
def connection(run):
    with connect(run.store) as opened:
        yield opened


def test_all_cells_are_made(run):
    assert not run.failed and not run.missing(run.plan.cells())


def test_a_twins_white_box_is_the_other_base_networks_own(run):
    own = {attack.network.seed: [] for attack in run.plan.white_box}
    for evaluation in run.plan.measured:
        own[evaluation.network.seed].append(evaluation.cell)
    for attack in run.plan.white_box:
        if attack.network.role == "base":
            own[attack.network.seed] += attack.cells
    copied = {0: [], 1: []}
    for evaluation in run.plan.copied:
        copied[evaluation.network.seed].append(evaluation.cell)
    compared = ("image_id", "label", "prediction", "l0", "mean_l1", "l1", "l2", "linf")
    for seed, other in ((0, 1), (1, 0)):
        assert len(copied[seed]) == len(own[other]) == 2
        for copy, original in zip(copied[seed], own[other], strict=True):
            ours, theirs = run.store.read(copy), run.store.read(original)
            assert all(ours[column].equals(theirs[column]) for column in compared)
            assert set(ours["name"].to_pylist()) == {"twin"} and set(ours["seed"].to_pylist()) == {seed}


def test_a_twin_is_tested_on_its_seeds_images(run):
    """On the other seed's base network these images are not what they were made to be."""
    found = {}
    for evaluation in run.plan.black_box:
        if evaluation.network.name in ("base", "twin"):
            rows = run.store.read(evaluation.cell)
            key = (evaluation.network.name, evaluation.network.seed, evaluation.cell.columns["attack"])
            found[key] = rows["prediction"].to_pylist()
    for seed, other in ((0, 1), (1, 0)):
        assert found["twin", seed, "none"] == found["base", other, "none"]
        assert found["twin", seed, "fgsm"] != found["base", other, "fgsm"]


def test_validation_images_were_in_no_training(run):
    held = set(run.dataset.validation.ids.tolist())
    assert not held & set(run.dataset.train.ids.tolist())
    for evaluation in run.plan.validation:
        rows = run.store.read(evaluation.cell)
        assert set(rows["image_id"].to_pylist()) == held


def test_the_choice_is_the_highest_mean_on_validation_images(run, connection):
    scores = {}
    for evaluation in run.plan.validation:
        rows = run.store.read(evaluation.cell)
        hits = np.equal(rows["prediction"].to_numpy(), rows["label"].to_numpy())
        scores.setdefault(evaluation.network.name, []).append(100 * hits.mean())
    assert {len(each) for each in scores.values()} == {4}  # clean and attacked, of two seeds
    means = {name: np.mean(each) for name, each in scores.items() if name != "base"}
    best = max(means, key=lambda name: means[name])  # the first of several, in the study's order
    (row,) = query(connection, "from choice where split = 'validation'").to_pylist()
    assert (row["name"], row["seeds"], row["images"]) == (best, 2, 20)
    assert row["accuracy"] == pytest.approx(means[best])
    lines = query(
        connection, "select distinct line, title from table7 where method like '%validated'"
    ).to_pylist()
    assert lines == [
        {
            "line": "imperceptible bound, chosen on validation images",
            "title": f"{best.replace('_', ' ')}, chosen on validation images",
        }
    ]


def test_choices_made_on_test_images_say_so(connection):
    found = query(connection, "select distinct method, words from choice where split = 'test' order by all")
    assert found.to_pylist() == [
        {"method": "imperceptible_bound", "words": ", strongest on test images"},
        {"method": "imperceptible_bound_best", "words": ", best for each attack on test images"},
    ]


def test_a_twin_is_no_base_network_in_the_tables(connection):
    for table in ("table7", "black_box"):
        names = f"select distinct name from {table} where method = 'base' and name <> 'base'"
        assert query(connection, names)["name"].to_pylist() == ["twin"]
    assert query(connection, "from table7 where name = 'base'").num_rows == 0
    controls = "select distinct name from networks where role = 'control' order by name"
    expected = ["control_pgd", "no_noise", "noise_labels", "twin"]
    assert query(connection, controls)["name"].to_pylist() == expected


def test_their_cells_are_priced(run):
    size = costs.extent(run.study, None)
    assert (size.train, size.validation, size.test) == (60, 20, 20)
    model = BoundModel(0.0, 1e-9, 1e-9, 0.0, 1e-9, {"any": Curve(64, 1.0, 0.5)}, 0.0)
    trained, gradients, forwards = (Rate(1 / images) for images in (100, 10, 1000))
    rates = Rates({"float32": trained}, {"float32": gradients}, forwards, "invented")
    prices = {each.step: each for each in price(costs.Quote(run.plan, size, rates, model))}
    assert sum(each.cells for each in prices.values()) == len(run.plan.cells())
    assert prices["black-box"].seconds == pytest.approx(len(run.plan.black_box_cells()) * 20 / 1000)
    # an epoch each: the noise-free, the noisy, PGD training with two gradients a sample
    images, tests = 60, 3 * 20 / 1000
    assert prices["baselines"].seconds == pytest.approx(2 * (3 * images / 100 + 2 * images / 10 + tests))


def test_the_table_says_which_controls_are_left_out(tmp_path):
    store = Store(tmp_path).open()
    for seeds, controls, said in (
        ([0], {}, "twin (the study has one seed)"),
        ([0, 1], {"twin": False, "no_noise": False}, "twin, no_noise (switched off)"),
    ):
        keep_record(
            check(build({**with_controls(), "seeds": seeds, "controls": controls}), store, None, Silent())
        )
        with connect(store) as connection:
            (table,) = laid_out(connection, ("table7",))
        assert f"Controls left out: {said}." in table.note


def test_made_again_they_are_the_same(run):
    found = list(recompute(run.store, 30, 0, None, 0))
    assert {len(each.differences) for each in found} == {0}
    assert any("twin" in each.title for each in found)


@pytest.mark.ray
def test_two_workers_make_the_same_controls(run, tmp_path, ray_session):
    run_study(with_controls(), tmp_path, compute={"workers": 2})
    assert snapshot(tmp_path) == snapshot(run.store.folder.place)
