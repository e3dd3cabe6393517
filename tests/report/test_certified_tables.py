"""Certified accuracy and the sandwich, counted by hand from rows made by hand."""

import numpy as np
import pytest
from mini_study import ABOUT, DATASET, training
from scipy.stats import binom

from harness.report.database import connect, query
from harness.report.tables import laid_out
from harness.results.cells import Cell
from harness.results.store import Store

COUNT = 20
RADII = [0.1, 0.25, 0.5]
TRUE = np.linspace(0.05, 0.9, COUNT)  # the smallest change that there is


def network_rows(seeds):
    facts = {"role": "base", "name": "base", "method": "base", "title": "base"}
    return [{"position": i, **facts, "seed": s, "key": str(s)} for i, s in enumerate(seeds)]


def store_of(tmp_path, factor_of_seed, attacked=COUNT):
    """Per seed: certified radii are ``factor`` times the change found at each image; the first abstains."""
    store, cells = Store(tmp_path).open(), []
    for seed, factor in factor_of_seed.items():
        network = training("base", "base", 1, {}, seed)
        smoothing = {"noise_sd": 0.25, "selection_draws": 100, "certification_draws": 1000, "alpha": 0.001}
        columns = {"network": network.key, "method": "base", **network.columns, **smoothing}
        cell = Cell("certified", {"dataset": DATASET}, columns, {}, title=f"certified {seed}")
        tried = np.arange(COUNT) < attacked
        rows = {
            "image_id": np.arange(COUNT),
            "label": np.zeros(COUNT, np.int32),
            "prediction": np.where(np.arange(COUNT) == 0, -1, 0),
            "top_count": np.full(COUNT, 900),
            "radius": np.where(np.arange(COUNT) == 0, 0, factor * TRUE),
            "attacked_l2": [
                float(x) if on and i else None for i, (x, on) in enumerate(zip(TRUE, tried, strict=True))
            ],
            "attacked_draws": [400 if on and i else None for i, on in enumerate(tried)],
        }
        store.write(cell, rows)
        cells.append(cell)
    seeds = list(factor_of_seed)
    about = {**ABOUT, "seeds": seeds, "radii": RADII, "networks": network_rows(seeds)}
    store.record_study("mini", {"name": "mini"}, {"certify": cells}, about, [])
    return store


def rows(store, sql):
    with connect(store) as connection:
        return query(connection, sql).to_pylist()


def test_certified_accuracy_is_counted_over_the_radii(tmp_path):
    found = rows(store_of(tmp_path, {0: 0.5}), "from certified_accuracy")
    expected = [100 * np.mean((radius <= 0.5 * TRUE) & (np.arange(COUNT) > 0)) for radius in RADII]
    assert [row["accuracy"] for row in found] == expected
    assert [row["certified_radius"] for row in found] == RADII
    assert (found[0]["images"], found[0]["clean"], found[0]["abstains"]) == (COUNT, 95, 5)
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in found)


def test_honest_radii_pass_and_doubled_ones_are_told(tmp_path):
    honest, planted = rows(store_of(tmp_path, {0: 0.6, 1: 1.2}), "from sandwich order by seed")
    assert (honest["attacked"], honest["fooled"], honest["violations"]) == (19, 19, 0)
    assert honest["verdict"] == "pass"
    assert honest["allowed"] == binom.ppf(0.999, 19, 0.001) == 1
    assert honest["median_ratio"] == pytest.approx(0.6)
    assert (planted["violations"], planted["verdict"]) == (19, "fail")
    assert planted["sentence"].startswith("19 of 19 certified radii")
    assert "an error of the harness" in planted["sentence"]


def test_the_tables(tmp_path):
    store = store_of(tmp_path, {0: 0.6, 1: 1.2})
    with connect(store) as connection:
        tables = {table.name: table for table in laid_out(connection)}
    accuracy, sandwich = tables["certified_accuracy"], tables["sandwich"]
    assert accuracy.header == ("network", "clean", "abstains", "l2 0.1", "l2 0.25", "l2 0.5")
    assert len(accuracy.rows) == 1 and "mean over 2 seeds" in accuracy.note
    assert [row[4] for row in sandwich.rows] == ["0", "19"]
    assert "base: 19 of 19 certified radii are above" in sandwich.note


def test_no_table_where_nothing_is_certified(tmp_path):
    with connect(store_of(tmp_path, {})) as connection:
        assert "certified_accuracy" not in {table.name for table in laid_out(connection)}


@pytest.mark.parametrize("n, p", [(1, 0.001), (60, 0.001), (1000, 0.001), (60, 0.05), (1, 0.0001)])
def test_the_quantile_is_the_binomials(tmp_path, n, p):
    (row,) = rows(store_of(tmp_path, {0: 0.5}), f"select binomial_quantile({n}, {p}, 0.999) as found")
    assert row["found"] == binom.ppf(0.999, n, p)
