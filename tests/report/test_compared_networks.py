"""Two networks beside each other: every number against what is counted, and scipy's tests."""

import csv
import io
from collections.abc import Sequence
from statistics import fmean, stdev

import pytest
from commands import call, refused
from handmade import BASE, Attack, bound_network
from measured import TWIN, Measured, check, clean, write
from scipy import stats

from harness.report.comparison.networks import compared, network
from harness.report.database import connect, query
from harness.results.store import Store

PGD = Attack("pgd", "PGD 0.1", "pgd", 0.1, 0.01)
FGSM = Attack("fgsm", "FGSM 0.1", "fgsm", 0.1)
DEFENDED = bound_network(2.0, 10)
# Each of 20 images: base, then the defended network.
CLEAN = "1" * 20, "1" * 18 + "00"
BLACK = "0" * 20, "1" * 12 + "0" * 8
WHITE = "0" * 15 + "1" * 5, "1" * 8 + "0" * 12


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def both(seed: int = 0, white: Sequence[str] = WHITE) -> list[Measured]:
    made = []
    for each, own in ((BASE, 0), (DEFENDED, 1)):
        made += [
            clean(each, CLEAN[own], seed),
            Measured(each, FGSM, BLACK[own], {"linf": 0.1}, access="black_box", seed=seed),
            Measured(each, PGD, white[own], {"linf": 0.1}, seed=seed),
        ]
    return made


def rows(store: Store, a: str = "base", b: str = DEFENDED.name) -> list[dict]:
    with connect(store) as connection:
        return query(connection, f"from compared('{a}', '{b}')").to_pylist()


def holm(values: Sequence[float]) -> list[float]:
    """Sorted, times m, m - 1 ..., never going down, at most 1."""
    adjusted, so_far = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        so_far = max(so_far, (len(values) - place) * values[index])
        adjusted[index] = min(1.0, so_far)
    return adjusted


def agresti_min(b: int, c: int, n: int) -> tuple[float, float]:
    """The formula of docs/statistics.md."""
    middle = (b - c) / (n + 2)
    half = stats.norm.ppf(0.975) * (b + c + 1 - (b - c) ** 2 / (n + 2)) ** 0.5 / (n + 2)
    return 100 * (middle - half), 100 * (middle + half)


def test_every_test_that_both_have(store):
    write(store, both())
    found = {row["test"]: row for row in rows(store) if row["seed"] is None}
    counts = {  # images that only a, only b is right on
        # Right when clean, under PGD and under the black box's images: of base none, as FGSM breaks all.
        "robust at 0.1 (linf)": (0, 8),
        "Clean": (2, 0),
        "FGSM 0.1": (0, 12),
        "PGD 0.1, white box, eps/10": (5, 8),
    }
    assert {test: (row["only_a"], row["only_b"]) for test, row in found.items()} == counts
    p = {test: stats.binomtest(a, a + b).pvalue for test, (a, b) in counts.items()}
    assert {test: row["p"] for test, row in found.items()} == pytest.approx(p)
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    assert {test: row["p_holm"] for test, row in found.items()} == pytest.approx(adjusted)
    for test, (a, b) in counts.items():
        row = found[test]
        assert (row["images"], row["seeds"]) == (20, 1)
        assert row["difference"] == pytest.approx(5 * (a - b))
        assert (row["low"], row["high"]) == pytest.approx(agresti_min(a, b, 20), abs=1e-4)
    verdicts = {test: row["verdict"] for test, row in found.items()}
    # p of the first is .0078 and 3 times that .023; PGD's interval holds 0.
    assert list(verdicts.values()) == ["b", "tied", "b", "tied"]


def test_turned_round_the_signs_turn(store):
    write(store, both())
    for one, other in zip(rows(store), rows(store, DEFENDED.name, "base"), strict=True):
        assert one["difference"] == -other["difference"] and one["p"] == other["p"]
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
        assert one["least"] == other["least"]


def test_tied_is_no_more_than_the_least_difference(store):
    write(store, [clean(BASE, "11")])
    sql = """select b, c, n, paired_least(b, c, n) as least, paired_low(b, c, n) as low,
                    paired_high(b, c, n) as high
             from range(13) b(b), range(4) c(c), (values (20), (359), (10000)) n(n)"""
    with connect(store) as connection:
        found = query(connection, sql).to_pylist()
    assert len(found) == 13 * 4 * 3
    for row in found:
        is_tied = row["low"] <= 0 <= row["high"]
        assert is_tied is (100 * abs(row["b"] - row["c"]) / row["n"] <= row["least"]), row


def test_better_in_one_row_is_not_better_among_many(store):
    """5 of 20 images: the interval leaves 0 out; p is .0625, whatever Holm says."""
    measured = [clean(BASE, "1" * 20), clean(TWIN, "1" * 15 + "0" * 5)]
    write(store, measured)
    (row,) = [row for row in rows(store, "base", "twin") if row["seed"] is None]
    assert row["low"] > 0 and row["p"] == pytest.approx(0.0625) and row["verdict"] == "(a)"


def test_several_seeds_are_the_unit(store):
    whites = [WHITE, ("0" * 20, "1" * 8 + "0" * 12), ("1" * 4 + "0" * 16, "1" * 6 + "0" * 14)]
    made = [each for seed, white in enumerate(whites) for each in both(seed, white)]
    write(store, made, seeds=(0, 1, 2))
    found = [row for row in rows(store) if row["access"] == "white_box"]
    assert [row["seed"] for row in found] == [None, 0, 1, 2]
    together, *alone = found
    differences = [row["difference"] for row in alone]
    assert differences == pytest.approx([-15, -40, -10])
    half = stats.t.ppf(0.975, 2) * stdev(differences) / 3**0.5
    assert together["seeds"] == 3 and together["images"] == 20
    assert together["difference"] == pytest.approx(fmean(differences))
    assert (together["low"], together["high"]) == pytest.approx(
        (fmean(differences) - half, fmean(differences) + half)
    )
    assert together["least"] == pytest.approx(half) and together["verdict"] == "tied"
    # Images 0 to 7 for b, of which 0 to 3 in two seeds of three; 15 to 19 for a in one.
    assert (together["only_a"], together["only_b"]) == (5, 8)
    assert together["p"] == pytest.approx(stats.binomtest(5, 13).pvalue)
    assert alone[2]["low"] == pytest.approx(agresti_min(0, 2, 20)[0], abs=1e-4)


def test_tables_say_what_is_missing_and_what_fails(store):
    made = [*both(), clean(TWIN, "1" * 20)]
    planned = Measured(DEFENDED, Attack("apgd_ce", "APGD", "apgd_ce", 0.1), "1" * 20, is_there=False)
    write(store, [*made, planned], checks=[check(DEFENDED, "gradients", "fail", "gradients are zero")])
    with connect(store) as connection:
        a, b = network(connection, "base"), network(connection, DEFENDED.title)
        (table,) = compared(connection, a, b)
        (with_twin,) = compared(connection, a, network(connection, "twin"))
    lines = {line[0]: line for line in table.rows}
    assert lines["robust at 0.1 (linf)"][1:3] == ("0.0", "<= 40.0")
    assert "† b: not measurable: gradients are zero." in table.note and "one seed" not in table.title
    assert [line[0] for line in with_twin.rows] == ["robust at 0.1 (linf)", "Clean"]
    assert "Only a has: FGSM 0.1; PGD 0.1, white box, eps/10." in with_twin.note


def test_a_stage_of_a_worst_case_is_no_test(store):
    stage = Attack("aa-first", "AA so far", "apgd_ce", 0.1)
    made = [Measured(each, stage, "1" * 20, {"linf": 0.1}, stage=True) for each in (BASE, DEFENDED)]
    write(store, [*both(), *made])
    assert not [row for row in rows(store) if row["attack"] == "aa-first"]


def test_the_command(store):
    write(store, both())
    options = ("--results", store.root)
    code, said = call("compare", "base", "imperceptible bound k=2 n=10", *options)
    assert code == 0 and "base and imperceptible bound k=2 n=10, seed 0, 20 images" in said
    assert "FGSM 0.1" in said and "tied" in said
    code, said = call("compare", "base", DEFENDED.name, "--format", "md", *options)
    assert code == 0 and "| Clean | 100.0 | 90.0 | 2 | 0 |" in said
    code, said = call("compare", "base", DEFENDED.name, "--format", "csv", *options)
    assert [row["only_b"] for row in csv.DictReader(io.StringIO(said))][:4] == ["8", "0", "12", "8"]


def test_mistakes(store, tmp_path):
    write(store, both())
    options = ("--results", store.root)
    assert "no network 'bass' in this study; did you mean 'base'?" in refused(
        "compare", "base", "bass", *options
    )
    assert "'base' and 'base' are the same network" in refused("compare", "base", "base", *options)
    assert "no study 'smal'" in refused("compare", "base", "twin", "--study", "smal", *options)
    assert "expected two networks or two folders" in refused("compare", "base", store.root, *options)
    assert "holds no results (there is no harness.json" in refused("compare", "base", tmp_path, *options)
    assert "holds no results" in refused("compare", "a", "b", "--results", tmp_path / "nowhere")


def test_networks_without_a_test_in_common(store):
    measured = [clean(BASE, "11"), Measured(TWIN, PGD, "11", {"linf": 0.1})]
    write(store, measured)
    assert "no test was measured on both 'base' and 'twin'" in refused(
        "compare", "base", "twin", "--results", store.root
    )
