"""Cost and its growth, from seconds that are made by a law."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import BASE, Network, bound_network, write_record

from harness.cli import main
from harness.report.database import connect, query
from harness.report.figures import drawn
from harness.report.tables import laid_out
from harness.results.cells import Cell
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store

K2 = bound_network(2.0, 10)
TRAINED = Network("adversarial_images deepfool", "adversarial_images", training_attack="deepfool")
NOISE = (1.02, 0.97, 1.03, 0.98, 1.01)
SIZES = (100, 200, 400, 800, 1600)


def study(store: Store, images: int, making_s: float, training_s: dict[Network, float]) -> None:
    """A study of so many training images, its two networks trained for two epochs."""
    spec = {"images": images}
    bound = Cell("bound", {"dataset": "digits", "split": "train"}, {}, spec)
    store.write(
        bound,
        {
            "neighbours": ["other_class"] * images,
            "image_id": np.arange(images),
            "label": np.zeros(images, np.int32),
            "neighbour_id": np.zeros(images, np.int64),
            "neighbour_label": np.ones(images, np.int32),
            "distance": np.full(images, 0.1),
        },
    )
    how = {"attack_method": "deepfool", "norm": "l2", "epsilon": None, "step_size": None}
    partition = {"dataset": "digits", "split": "train", "attack": "deepfool"}
    attack = Cell("attack", partition, {"method": "base", **BASE.columns(0), **how}, spec)
    zeros = {name: np.zeros(images) for name in ("l0", "l1", "mean_l1", "l2", "linf")}
    classes = dict.fromkeys(("label", "predicted", "adversarial_predicted"), np.zeros(images, np.int32))
    seconds = np.full(images, making_s / images)
    store.write(attack, {"image_id": np.arange(images), **classes, **zeros, "attack_s": seconds})
    cells = [(bound, "bound"), (attack, "attack")]
    for network, took in training_s.items():
        cell = Cell("training", {"dataset": "digits", "method": network.method}, network.columns(0), spec)
        store.write(cell, _epochs(took))
        cells.append((cell, "defense"))
    write_record(store, f"of {images}", _record(images, cells))


def _epochs(seconds: float) -> dict:
    """Epoch 0 is the state before, and doesn't count."""
    return {
        "epoch": [0, 1, 2],
        "loss": [None, 1.0, 0.5],
        "clean_accuracy": [0.1, 0.5, 0.6],
        "images_per_s": [None, 10.0, 10.0],
        "peak_share": [None] * 3,
        "epoch_s": [100.0, seconds / 2, seconds / 2],
        "device": ["cpu"] * 3,
        "world_size": [1] * 3,
    }


def _record(images: int, cells: list[tuple[Cell, str]]) -> dict:
    keys = {cell.columns["name"]: cell.key for cell, _ in cells if cell.table == "training"}
    networks = [
        {
            **{"position": position, "role": network.role, "name": network.name, "method": network.method},
            **{"title": network.title, "seed": 0, "key": keys[network.name]},
        }
        for position, network in enumerate((K2, TRAINED))
    ]
    about = {
        **{"dataset": "digits", "title": "digits", "paper": None, "seeds": [0], "neighbours": "other_class"},
        **{"effectiveness_k": 2.0, "protocol": "label", "architecture": "convnet", "networks": networks},
        **{"controls_left_out": [], "radii": []},
    }
    recorded = [
        {"key": cell.key, "table": cell.table, "path": str(cell.path), "title": json.dumps({}), "step": step}
        for cell, step in cells
    ]
    return {"schema_version": SCHEMA_VERSION, "study": {}, "about": about, "cells": recorded, "planned": []}


def studies(store: Store, making_s: Callable[[int], float], sizes=SIZES) -> Store:
    for images, noise in zip(sizes, NOISE, strict=False):
        study(store, images, making_s(images) * noise, {K2: 0.02 * images * noise, TRAINED: 0.001 * images})
    return store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def test_seconds_are_added(store):
    studies(store, lambda images: 0.05 * images, sizes=(100,))
    with connect(store, "of 100") as connection:
        rows = query(connection, "from complexity").to_pylist()
        cost = query(connection, "from cost").to_pylist()
        shown, spent = laid_out(connection, ("complexity", "cost"))
    assert [(row["name"], row["images"], row["epochs"]) for row in rows] == [
        (K2.name, 100, 2),
        (TRAINED.name, 100, 2),
    ]
    assert [row["making_s"] for row in rows] == pytest.approx([0, 5.1])
    assert [row["training_s"] for row in rows] == pytest.approx([2.04, 0.1])
    assert [row["total_ms_per_image"] for row in rows] == pytest.approx([20.4, 52])
    assert {row["step"]: row["seconds"] for row in cost} == pytest.approx({"attack": 5.1, "defense": 202.14})
    assert len(shown.rows) == len(spent.rows) == 2


@pytest.mark.parametrize(
    ("making_s", "verdict"),
    [
        (lambda images: 1e-4 * images**1.8, "reproduced"),
        (lambda images: 0.05 * images, "not shown"),
        (lambda images: images**0.3, "not reproduced"),
    ],
)
def test_growth_is_the_slope_of_the_logarithms(store, making_s, verdict):
    studies(store, making_s)
    with connect(store) as connection:
        growth = query(connection, "from complexity_growth where part = 'total'").to_pylist()
        (claim,) = query(connection, "from complexity_claim").to_pylist()
        card = query(connection, "from scorecard where claim = 'complexity'").to_pylist()
    logs = np.log(SIZES)
    for row, seconds in zip(
        growth,
        (
            [0.02 * images * noise for images, noise in zip(SIZES, NOISE, strict=True)],
            [making_s(images) * noise + 0.001 * images for images, noise in zip(SIZES, NOISE, strict=True)],
        ),
        strict=True,
    ):
        (slope, _), covariance = np.polyfit(logs, np.log(seconds), 1, cov=True)
        assert (row["slope"], row["error"]) == pytest.approx((slope, np.sqrt(covariance[0, 0])))
    assert claim["difference"] == pytest.approx(growth[1]["slope"] - growth[0]["slope"])
    assert claim["low"] < claim["difference"] < claim["high"] and claim["sizes"] == 5
    assert {row["verdict"] for row in card} == {verdict} and len(card) == len(SIZES)


def test_three_sizes_are_too_few_for_the_claim(store):
    studies(store, lambda images: 0.05 * images, sizes=SIZES[:3])
    with connect(store) as connection:
        assert not query(connection, "from complexity_claim").to_pylist()
        assert len(query(connection, "from complexity_growth where part = 'total'").to_pylist()) == 2
        assert {row["verdict"] for row in query(connection, "from scorecard").to_pylist()} == {
            "not measured here"
        }
        (figure,) = drawn(connection, {}, "complexity")
    axes = figure.figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log" and len(axes.get_lines()) == 2


def test_a_page_of_several_studies_shows_the_growth(store, tmp_path):
    studies(store, lambda images: 0.05 * images, sizes=SIZES[:3])
    told = CliRunner().invoke(main, ["report", "--results", store.root, "--out", str(tmp_path / "x.html")])
    assert told.exit_code == 0, told.output
    text = (tmp_path / "x.html").read_text()
    assert text.count("Across studies") == 2 and "Cost over the training images, digits" in text
    one = ["report", "of 100", "--results", store.root, "--out", str(tmp_path / "x.html")]
    assert CliRunner().invoke(main, one).exit_code == 0
    assert "Across studies" not in (tmp_path / "x.html").read_text()


def test_versions_come_from_the_files(store):
    study(store, 100, 1.0, {K2: 1.0, TRAINED: 1.0})
    extra = Cell("bound", {"dataset": "digits", "split": "test"}, {}, {})
    store.write(
        extra,
        {
            **{"neighbours": ["other_class"], "image_id": [0], "label": np.zeros(1, np.int32)},
            **{"neighbour_id": [0], "neighbour_label": np.ones(1, np.int32), "distance": [0.1]},
        },
        python="3.12.1",
        machine="arm64",
        cores=8,
        versions={"torch": "9.9"},
        gpus=["A", "B"],
    )
    record = store.studies()["of 100"]
    record["cells"].append(
        {"key": extra.key, "table": "bound", "path": str(extra.path), "title": "", "step": "bound"}
    )
    record["about"]["code"] = {"mine": "abc"}
    write_record(store, "of 100", record)
    with connect(store) as connection:
        rows = query(connection, "from versions").to_pylist()
        (table,) = laid_out(connection, ("versions",))
    assert [(row["name"], row["version"], row["cells"]) for row in rows] == [
        ("python", "3.12.1", 1),
        ("torch", "9.9", 1),
        ("machine", "arm64, 8 cores", 1),
        ("gpu", "A", 1),
        ("gpu", "B", 1),
        ("mine (own code)", "abc", None),
    ]
    assert table.rows[-1] == ("mine (own code)", "abc", "-")
