"""Fragility counted by hand, from cells made by hand."""

from typing import Any

import numpy as np
import pytest
from handmade import DEEPFOOL, IMAGES, LABELS, Study, attack_rows, fill
from scipy.stats import t

from harness.report.database import connect, query
from harness.report.tables import laid_out
from harness.results.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def deepfool_rows(fooled: int, rounded: int, noisy: int | None) -> dict[str, Any]:
    """So many of 10 images fooled, and of those still after rounding and with noise; none in bfloat16."""

    def wrong(count: int) -> np.ndarray:
        return np.where(np.arange(IMAGES) < count, 1 - LABELS, LABELS).astype(np.int32)

    rows = attack_rows(0) | {"adversarial_predicted": wrong(fooled), "rounded_predicted": wrong(rounded)}
    return rows if noisy is None else rows | {"noisy_predicted": wrong(noisy)}


def filled(store: Store, study: Study, counts: dict[int, tuple[int, int, int | None]]) -> None:
    """Of DeepFool in each seed (fooled, rounded, noisy)."""
    deepfool = {
        cell: deepfool_rows(*counts[seed])
        for seed, split, attack, cell in study.attack_cells()
        if attack == DEEPFOOL and split == "test"
    }
    fill(store, study, keep=lambda cell: cell not in deepfool)
    for cell, rows in deepfool.items():
        store.write(cell, rows)


def test_shares_of_the_fooled_with_wilsons_interval(store):
    filled(store, Study(), {0: (8, 2, 0)})
    with connect(store) as connection:
        (row,) = query(connection, "from fragility where attack = 'deepfool'").to_pylist()
        (table,) = laid_out(connection, ("fragility",))
    assert (row["images"], row["fooled_images"], row["fooled"]) == (10, 8, 80)
    assert (row["rounded"], row["noisy"], row["bfloat16"]) == (25, 0, None)
    # Newcombe 1998, method 3: (2 of 8 + z^2 / 2 -+ ...) / (8 + z^2)
    assert row["rounded_low"] == pytest.approx(7.15, abs=0.01)
    assert row["rounded_high"] == pytest.approx(59.07, abs=0.01)
    (line,) = [line for line in table.rows if line[0] == "DeepFool"]
    assert line == ("DeepFool", "10", "80.0 [49.0, 94.3]", "25.0 [7.1, 59.1]", "0.0 [0.0, 32.4]", "-")


def test_an_attack_that_fools_nobody_leaves_nothing_to_undo(store):
    filled(store, Study(), {0: (0, 0, 0)})
    with connect(store) as connection:
        (row,) = query(connection, "from fragility where attack = 'deepfool'").to_pylist()
    assert (row["fooled"], row["rounded"], row["rounded_low"]) == (0, None, None)


def test_several_seeds_have_their_mean_and_a_t_interval(store):
    filled(store, Study(seeds=(0, 1, 2)), {0: (10, 3, 1), 1: (10, 5, 1), 2: (5, 2, 1)})
    with connect(store) as connection:
        (row,) = query(connection, "from fragility_over_seeds where attack = 'deepfool'").to_pylist()
    shares = np.array([30, 50, 40])
    assert (row["seeds"], row["fooled_images"], row["rounded"]) == (3, 25, pytest.approx(40))
    half = t.ppf(0.975, 2) * shares.std(ddof=1) / np.sqrt(3)
    assert row["rounded_high"] - row["rounded"] == pytest.approx(half, abs=1e-4)


def test_results_that_say_nothing_of_it_make_no_table(store):
    fill(store, Study())
    with connect(store) as connection:
        assert "fragility" not in [table.name for table in laid_out(connection)]
