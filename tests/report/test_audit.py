"""The audit of sigma, against bounds of which every duplicate and every label is written down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from handmade import Study, bound_rows, fill

from harness.report.database import connect, query
from harness.report.tables import laid_out
from harness.results.store import Store

NEAR = 2 / 255


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def bound(other: Sequence[float], any_class: Sequence[float], any_label: Sequence[int]) -> dict[str, Any]:
    """Images of class 0 with these distances to both kinds of neighbour, and the nearest's class."""
    count = len(other)
    return {
        "neighbours": ["other_class"] * count + ["any_class"] * count,
        "image_id": np.tile(np.arange(count), 2),
        "label": np.zeros(2 * count, np.int32),
        "neighbour_id": np.arange(2 * count),
        "neighbour_label": np.concatenate([np.ones(count), any_label]).astype(np.int32),
        "distance": np.concatenate([other, any_class]),
    }


def write(store: Store, train: dict[str, Any]) -> None:
    study = Study()
    for cell, rows in zip(study.bounds(), (train, bound_rows(1)), strict=True):
        store.write(cell, rows)
    fill(store, study, keep=lambda cell: cell.table != "bound")


def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    with connect(store) as connection:
        return query(connection, sql).to_pylist()


def test_duplicates_and_labels_are_counted(store):
    other = [0.0, 0.2, 0.2, NEAR, 0.2, 0.05, 0.9]
    any_class = [0.0, 0.0, NEAR, NEAR, 0.1, 0.05, 0.9]
    label = [1, 0, 0, 1, 0, 1, 1]
    write(store, bound(other, any_class, label))
    (train,) = rows(store, "from sigma_audit where split = 'train'")
    counted = {name: value for name, value in train.items() if isinstance(value, int)}
    assert counted == {
        **{"images": 7, "same_duplicates": 1, "other_duplicates": 1, "same_near": 1, "other_near": 1},
        **{"disagreeing": 4, "suspects": 2},  # the last two are far from everything
    }
    suspects = rows(store, "from suspected_labels where split = 'train'")
    assert [(row["image_id"], row["neighbour_id"], row["neighbour_label"]) for row in suspects] == [
        (0, 7, 1),
        (3, 10, 1),
    ]
    assert [row["closer"] for row in suspects] == pytest.approx([0, 100 * 2 / 6])


@pytest.mark.parametrize("count", [60, 3000])
def test_the_bootstrap_agrees_with_the_standard_error(store, count):
    distance = np.random.default_rng(0).gamma(4, 0.02, count)
    write(store, bound(2 * distance, distance, [0] * count))
    (train,) = rows(store, "from sigma_audit where split = 'train'")
    for name, of in (("any", distance / 2), ("other", distance)):
        half = 1.96 * of.std() / np.sqrt(count)
        assert train[f"{name}_mean"] == pytest.approx(of.mean())
        assert train[f"{name}_low"] == pytest.approx(of.mean() - half, abs=0.15 * half)
        assert train[f"{name}_high"] == pytest.approx(of.mean() + half, abs=0.15 * half)
    (again,) = rows(store, "from sigma_audit where split = 'train'")
    assert again["any_low"] == pytest.approx(train["any_low"], rel=1e-12)


def test_tables(store):
    write(store, bound([0.2] * 30, [0.1] * 30, [1] * 30))
    with connect(store) as connection:
        audit, suspected = laid_out(connection, ("sigma_audit", "suspected_labels"))
    assert audit.rows[0][:4] == ("training", "30", "0.1000 [0.1000, 0.1000]", "0.0500 [0.0500, 0.0500]")
    of_test = sum(line[0] == "test" for line in suspected.rows)
    assert len(suspected.rows) == 20 and of_test < 10 and "The first 20 of" in suspected.note
