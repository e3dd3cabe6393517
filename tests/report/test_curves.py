"""The curves over a radius, against what is counted image by image and the tables that are points of them."""

from fractions import Fraction

import pytest
from handmade import BASE, Study, fill
from measured import Measured, clean, write
from test_robust import DEFENDED, PGD

from harness.report.database import connect, query
from harness.results.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def test_robust_accuracy_counts_the_smallest_changes(store):
    sizes = [0.02, 0.04, 0.06, 0.08, 0.1]
    right = {BASE: "11110", DEFENDED: "11111"}
    measured = [clean(network, hits) for network, hits in right.items()]
    measured += [Measured(network, PGD, "00000", {"linf": sizes}) for network in right]
    write(store, measured, bound=[0.1] * 5)
    with connect(store) as connection:
        rows = query(connection, "from robustness_curve").to_pylist()
    assert len(rows) == 2 * 61 and max(row["epsilon"] for row in rows) == pytest.approx(0.15)
    for row in rows:
        hits = right[BASE if row["name"] == "base" else DEFENDED]
        # A change of the radius itself is within it; float32 says which to the eighth digit.
        held = [hit == "1" and size > row["epsilon"] + 1e-6 for hit, size in zip(hits, sizes, strict=True)]
        assert row["accuracy"] == pytest.approx(100 * sum(held) / 5), row["epsilon"]


def test_effectiveness_at_one_sigma_is_table_3(store):
    fill(store, Study())
    with connect(store) as connection:
        curve = query(connection, "from effectiveness_curve").to_pylist()
        table = query(connection, "from effectiveness").to_pylist()
    at_one = {(row["attack"], row["epsilon"], row["seed"]): row for row in curve if row["tau"] == 1}
    assert len(at_one) == len(table) > 1
    for row in table:
        point = at_one[row["attack"], row["epsilon"], row["seed"]]
        assert point["images"] == row["images"]
        assert point["effective"] == pytest.approx(row["effective_own"])


def test_effectiveness_never_falls(store):
    fill(store, Study())
    with connect(store) as connection:
        curve = query(connection, "from effectiveness_curve order by attack, epsilon, seed, tau").to_pylist()
    taus = [Fraction(step, 20) for step in range(81)]
    assert [row["tau"] for row in curve[:81]] == pytest.approx([float(tau) for tau in taus])
    for before, after in zip(curve, curve[1:], strict=False):
        if before["tau"] < after["tau"]:
            assert before["effective"] <= after["effective"]
