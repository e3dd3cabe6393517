"""The scorecard: every verdict by its rule, from outcomes that are written down image by image."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import BASE, DEEPFOOL, Network, Study, bound_network, bound_rows, fill
from measured import TWIN, Measured, clean, write

from harness.report.database import connect, query
from harness.report.tables import laid_out
from harness.results.store import Store

K1, K2 = bound_network(1.0, 10), bound_network(2.0, 10)
TRAINED = Network("adversarial_images deepfool", "adversarial_images", training_attack="deepfool")
IMAGES = 200


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def right(count: int) -> str:
    """So many of the images are right, the first ones."""
    return "1" * count + "0" * (IMAGES - count)


def attacked(network: Network, count: int, seed: int = 0) -> Measured:
    return Measured(network, DEEPFOOL, right(count), access="black_box", seed=seed)


def scorecard(store: Store, claim: str) -> list[dict]:
    with connect(store) as connection:
        return query(connection, f"from scorecard where claim = '{claim}'").to_pylist()


def duel(store: Store, base: int, defended: tuple[int, int], control: int = 0, seeds=(0,)) -> None:
    measured = []
    for seed in seeds:
        networks = {BASE: base, K1: defended[0], K2: defended[1], TWIN: control}
        measured += [clean(network, right(180), seed) for network in networks]
        measured += [attacked(network, count + seed, seed) for network, count in networks.items()]
    write(store, measured, seeds=seeds)


@pytest.mark.parametrize(
    ("base", "defended", "verdict"),
    [(20, (90, 60), "reproduced"), (20, (90, 21), "not shown"), (60, (90, 20), "not reproduced")],
)
def test_above_base_is_of_every_network(store, base, defended, verdict):
    duel(store, base, defended)
    (row,) = scorecard(store, "above_base")
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(100 * (min(defended) - base) / IMAGES)
    assert (row["item"], row["images"], row["seeds"]) == ("DeepFool", IMAGES, 1)
    assert "one seed" in row["rests_on"]


def test_a_control_that_does_as_well_is_said(store):
    duel(store, 20, (90, 60), control=150, seeds=(0, 1, 2))
    (row,) = scorecard(store, "above_base")
    assert row["verdict"] == "reproduced"
    assert row["control"] == "twin 75.5 %: 0 of 2 shown above it, 2 below"


def test_over_seeds_the_interval_is_students(store):
    measured, differences = [], []
    for seed, (base, defended) in enumerate([(20, 90), (30, 35), (10, 100)]):
        measured += [clean(network, right(180), seed) for network in (BASE, K1)]
        measured += [attacked(BASE, base, seed), attacked(K1, defended, seed)]
        differences.append(100 * (defended - base) / IMAGES)
    write(store, measured, seeds=(0, 1, 2))
    (row,) = scorecard(store, "above_base")
    half = 4.302653 * np.std(differences, ddof=1) / np.sqrt(3)
    assert [row["ours"], row["low"], row["high"]] == pytest.approx(
        [np.mean(differences), np.mean(differences) - half, np.mean(differences) + half]
    )
    assert row["verdict"] == "not shown"  # above 0 in each seed, but three seeds don't show it


def test_clean_accuracy(store):
    measured = [clean(BASE, right(150)), clean(K1, right(150)), clean(K2, right(120))]
    write(store, measured)
    (kept,) = scorecard(store, "clean_kept")
    (raised,) = scorecard(store, "clean_raised")
    assert (kept["verdict"], kept["ours"]) == ("not reproduced", pytest.approx(-15))
    assert (raised["verdict"], raised["ours"]) == ("not shown", 0)


@pytest.mark.parametrize(
    ("trained", "verdict"), [(10, "reproduced"), (60, "not shown"), (150, "not reproduced")]
)
def test_adversarial_training(store, trained, verdict):
    networks = {BASE: 20, K1: 40, K2: 60, TRAINED: trained}
    write(store, [attacked(network, count) for network, count in networks.items()])
    (row,) = scorecard(store, "adversarial_training")
    assert row["verdict"] == verdict and row["ours"] == pytest.approx(100 * (60 - trained) / IMAGES)
    assert row["rests_on"].startswith(
        "imperceptible bound k=2 n=10 30.0 %, against adversarial images deepfool"
    )


@pytest.mark.parametrize(("trained", "verdict"), [(100, "reproduced"), (20, "not reproduced")])
def test_where_the_paper_is_below_so_is_the_claim(store, trained, verdict):
    """JSMA in Table VII: 73.88 for the bound, 75.63 for training on JSMA."""
    jsma = replace(DEEPFOOL, name="jsma", title="JSMA", method="jsma")
    networks = {BASE: 20, K1: 60, TRAINED: trained}
    measured = [
        Measured(network, jsma, right(count), access="black_box") for network, count in networks.items()
    ]
    write(store, measured, paper="cifar10")
    (row,) = scorecard(store, "adversarial_training")
    assert row["paper"] == pytest.approx(73.88 - 75.63) and row["verdict"] == verdict


def test_strongest_k(store):
    write(store, [clean(BASE, right(100)), clean(K1, right(100)), clean(K2, right(150))], paper="cifar10")
    (row,) = scorecard(store, "strongest_k")
    assert (row["item"], row["verdict"], row["ours"]) == ("k = 2", "reproduced", pytest.approx(25))


@pytest.mark.parametrize(("change", "verdict"), [(0.2, "reproduced"), (0.01, "not reproduced")])
def test_robust_within_the_bound(store, change, verdict):
    own = Measured(K1, DEEPFOOL, "0" * IMAGES, {"mean_l1": change})
    write(store, [clean(BASE, right(IMAGES)), clean(K1, right(IMAGES)), own], bound=[0.1] * IMAGES)
    (row,) = scorecard(store, "within_robust")
    assert (row["item"], row["verdict"]) == ("k = 1", verdict)
    assert row["ours"] == (0 if verdict == "reproduced" else 100)


def test_a_cut_says_nothing_about_table_2(store):
    fill(store, Study())  # 10 training images
    rows = scorecard(store, "sigma")
    assert len(rows) == 8 and {row["verdict"] for row in rows} == {"not measured here"}
    assert all("10 of the paper's 50,000 training images" in row["rests_on"] for row in rows)


@pytest.mark.parametrize(("distance", "verdict"), [("mean", "reproduced"), ("far", "not reproduced")])
def test_table_2_within_a_thousandth(store, distance, verdict):
    """All 50,000 images of CIFAR-10 at the printed distances: 2 k sigma."""
    study = Study()
    (train, test) = study.bounds()
    low, mean, high = np.array([0.022, 0.124, 0.254]) + (0.01 if distance == "far" else 0)
    distances = np.full(50_000, mean)
    distances[[0, 1]] = low, high
    store.write(
        train,
        {
            "neighbours": ["other_class"] * 50_000,
            "image_id": np.arange(50_000),
            "label": np.zeros(50_000, np.int32),
            "neighbour_id": np.zeros(50_000, np.int64),
            "neighbour_label": np.ones(50_000, np.int32),
            "distance": distances,
        },
    )
    store.write(test, bound_rows(1))
    fill(store, study, keep=lambda cell: cell.table != "bound")
    verdicts = {row["item"]: row["verdict"] for row in scorecard(store, "sigma")}
    assert verdicts["k = 1, nearest of other class"] == verdict
    assert verdicts["k = 1, nearest of any class"] == "not measured here"


@pytest.mark.parametrize("paper", ["cifar10", "mnist", "tinyimagenet", None])
def test_every_claim_has_a_row_and_every_row_a_verdict(store, paper):
    fill(store, Study(paper=paper))
    with connect(store) as connection:
        rows = query(connection, "from scorecard").to_pylist()
        claims = query(connection, "from paper_claims").to_pylist()
        (table,) = laid_out(connection, ("scorecard",))
    assert {row["claim"] for row in rows} == {claim["claim"] for claim in claims}
    verdicts = {"reproduced", "not reproduced", "not shown", "unreadable", "not measured here"}
    assert {row["verdict"] for row in rows} <= verdicts
    assert len(table.rows) == len(rows) and all(row["rests_on"] for row in rows)
    within = {row["item"]: row["verdict"] for row in rows if row["claim"] == "within"}
    if paper == "tinyimagenet":
        assert set(within.values()) == {"unreadable"}
    if paper == "mnist":
        assert len(within) == 3 and all(item.endswith(": few") for item in within)


def test_the_docs_have_every_rule():
    root = Path(__file__).parents[2]
    text = (root / "docs/scorecard.md").read_text()
    for claim in csv.DictReader((root / "harness/report/paper/claims.csv").read_text().splitlines()):
        assert f"| {claim['words']} | {claim['source']} | {claim['rule']} |" in text


def test_more_defended_than_within_the_bound(store):
    """Each network of the grid is right on 5 of DeepFool's 10 images; Wilson's interval: +-26.341."""
    fill(store, Study(paper="mnist"))
    rows = {row["item"]: row for row in scorecard(store, "above_estimate")}
    within = {row["item"].split(":")[0]: row for row in scorecard(store, "within")}
    row, share = rows["DeepFool"], within["DeepFool"]
    assert len(rows) == 3 and row["verdict"] == "not shown"
    assert [row["ours"], row["low"], row["high"]] == pytest.approx(
        [
            50 - share["ours"],
            50 - share["ours"] - np.hypot(26.341, share["high"] - share["ours"]),
            50 - share["ours"] + np.hypot(26.341, share["ours"] - share["low"]),
        ],
        abs=0.01,
    )
