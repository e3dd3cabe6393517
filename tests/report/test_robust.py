"""Robust accuracy, the bound's test, credit, pairs, the ranking: from images whose fate is written down."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pytest
from handmade import BASE, Attack, Network, bound_network
from measured import MUST_PASS, NO_NOISE, TWIN, Measured, certified, check, clean, write
from rich.console import Console
from scipy import stats
from test_views import rows, values

from harness.report import database
from harness.report.database import SETTLED, connect, query
from harness.report.printing import _grid, render
from harness.report.tables import laid_out
from harness.report.tables.table import Table
from harness.results.store import Store

PGD = Attack("pgd", "PGD 0.1", "pgd", 0.1, 0.01)
PGD_3 = Attack("pgd", "PGD 0.3", "pgd", 0.3, 0.03)
FGSM = Attack("fgsm", "FGSM 0.1", "fgsm", 0.1)
DEEPFOOL = Attack("deepfool", "DeepFool", "deepfool", norm="l2")
L2 = Attack("apgd_l2", "APGD 1 (l2)", "apgd_ce", 1.0, norm="l2")
DEFENDED = bound_network(2.0, 10)
OTHER = bound_network(3.0, 10)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    store = write(Store(tmp_path_factory.mktemp("arithmetic")).open(), [clean(BASE, "11")])
    with connect(store) as connection:
        yield connection


def robust_at(connection: duckdb.DuckDBPyConnection, name: str, epsilon: float, norm: str = "linf") -> Any:
    where = f"name = '{name}' and norm = '{norm}' and same_epsilon(epsilon, {epsilon})"
    (row,) = rows(connection, f"from robust where {where}")
    return row


def by_name(connection: duckdb.DuckDBPyConnection, *which: str) -> dict[str, Table]:
    return {table.name: table for table in laid_out(connection, which)}


# --- robust accuracy --------------------------------------------------------------------------------------


def several_attacks() -> list[Measured]:
    """Image 9 is misclassified. Broken at .1: 5 to 8 by PGD .1, 1 by PGD .3, 2 by DeepFool's small change."""
    other = [0.3] * 10
    near = [0.3, 0.05, *[0.3] * 8]
    return [
        clean(BASE, "1111111110"),
        Measured(BASE, PGD, "1111100001", {"linf": 0.1, "l2": 0.8}),  # 9 is driven onto its class
        Measured(BASE, PGD_3, "1000000000", {"linf": near, "l2": 2.0}),
        Measured(BASE, DEEPFOOL, "0000000000", {"linf": [0.5, 0.5, 0.08, *other[:7]], "l2": 0.9}),
    ]


def test_an_image_is_broken_by_whatever_lies_within_the_radius(store):
    write(store, several_attacks())
    with connect(store) as connection:
        row = robust_at(connection, "base", 0.1)
        assert (row["images"], row["hits"], row["accuracy"], row["clean_accuracy"]) == (10, 3, 30, 90)
        interval = stats.binomtest(3, 10).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((100 * interval.low, 100 * interval.high), abs=1e-4)
        assert row["attacks"] == ["DeepFool", "PGD 0.1", "PGD 0.3"] and row["missing"] == []
        assert row["is_complete"]
        # At .3 all that PGD .3 fools; 0 survives it, and DeepFool's change of 0 is larger.
        assert robust_at(connection, "base", 0.3)["hits"] == 1
        smallest = rows(connection, "select image_id, linf from smallest_change order by image_id")
        assert [row["linf"] for row in smallest] == [0.5, 0.05, 0.08, *[0.3] * 2, *[0.1] * 4, None]


def test_other_norms_and_their_tolerance(store):
    sizes = {"linf": 0.1, "l2": [1.00009, 1.0002, 0.5, 3.0]}
    measured = [
        clean(BASE, "1111"),
        Measured(BASE, PGD, "0000", sizes),
        Measured(BASE, L2, "1111", {"l2": 1.0, "linf": 0.5}),
    ]
    write(store, measured)
    with connect(store) as connection:
        row = robust_at(connection, "base", 1.0, "l2")
        assert (row["hits"], row["attacks"]) == (2, ["APGD 1 (l2)", "PGD 0.1"])
        # APGD broke nothing that lies within .1: it does not count there.
        assert robust_at(connection, "base", 0.1)["attacks"] == ["PGD 0.1"]


def test_images_of_the_black_box_have_the_sizes_that_were_measured_on_the_base_network(store):
    """FGSM's changes on images 0 and 1 are within .1 but for rounding; on 2 they are not."""
    measured = [
        clean(BASE, "1111"),
        clean(DEFENDED, "1110"),
        Measured(DEFENDED, FGSM, "0001", {"linf": [0.1000005, 0.1, 0.1001, 0.1]}, access="black_box"),
        Measured(BASE, PGD, "0000", {"linf": 0.1}),
        Measured(DEFENDED, PGD, "1111", {"linf": 0.1}),
    ]
    write(store, measured)
    with connect(store) as connection:
        row = robust_at(connection, DEFENDED.name, 0.1)
        assert (row["hits"], row["attacks"]) == (1, ["FGSM 0.1 (black box)", "PGD 0.1"])


def test_what_is_missing_makes_an_upper_bound(store):
    chain = [Attack(name, name, "apgd_ce", 0.1) for name in ("aa-apgd_ce", "aa")]
    measured = [
        clean(BASE, "1111"),
        Measured(BASE, chain[0], "0111", {"linf": 0.1}, stage=True),
        Measured(BASE, chain[1], "0111", {"linf": 0.1}, is_there=False),
        Measured(BASE, PGD_3, "0011", {"linf": 0.3}, is_there=False),
        clean(DEFENDED, "1111"),
    ]
    write(store, measured)
    with connect(store) as connection:
        row = robust_at(connection, "base", 0.1)
        assert (row["hits"], row["attacks"], row["missing"]) == (3, ["aa-apgd_ce"], ["aa"])
        assert not row["is_complete"]
        # No attack was made on the defended network: it is above all and comparable with none.
        row = robust_at(connection, DEFENDED.name, 0.1)
        assert (row["hits"], row["attacks"], row["missing"], row["is_complete"]) == (4, [], [], False)
        table = by_name(connection, "ranking")["ranking"]
    # The radius with the most kinds of attack is shown.
    assert table.title == "Ranking at 0.1 (linf), digits"
    assert [line[:4] for line in table.rows] == [
        ("", DEFENDED.title, "100.0", "<= 100.0 [51.0, 100.0]"),
        ("", "base", "100.0", "<= 75.0 [30.1, 95.4]"),
    ]
    assert "Missing: aa." in table.note


def test_a_stage_is_left_out_of_what_is_printed(store):
    chain = [Attack(name, name, "apgd_ce", 0.1) for name in ("aa-apgd_ce", "aa")]
    measured = [Measured(BASE, each, "0111", {"linf": 0.1}, stage=each != chain[1]) for each in chain]
    write(store, [clean(BASE, "1111"), *measured])
    with connect(store) as connection:
        assert robust_at(connection, "base", 0.1)["attacks"] == ["aa"]
        assert [line[1] for line in by_name(connection, "white_box")["white_box"].rows] == ["aa"]


def test_a_network_that_is_not_measured_is_a_row(store):
    write(store, [clean(BASE, "1111"), Measured(BASE, PGD, "1111", {"linf": 0.1}, is_there=False)])
    with connect(store) as connection:
        row = robust_at(connection, "base", 0.1)
        assert (row["accuracy"], row["missing"]) == (100, ["PGD 0.1"])
    store = write(
        store, [Measured(BASE, PGD, "1111", is_there=False), Measured(TWIN, PGD, "11", is_there=False)]
    )
    with connect(store) as connection:
        assert by_name(connection, "ranking")["ranking"].rows[0][3] == "-"


def test_attacked_above_clean_is_said(store):
    write(store, [clean(BASE, "1100"), Measured(BASE, PGD, "1110", {"linf": 0.1})])
    with connect(store) as connection:
        table = by_name(connection, "white_box")["white_box"]
        assert robust_at(connection, "base", 0.1)["accuracy"] == 50
    assert "1 above the network's clean accuracy" in table.note


# --- the bound put to the test ----------------------------------------------------------------------------


def test_bound(store):
    """sigma(1) of every image is .05, sigma(2) .025; image 4 is misclassified."""
    measured = [
        clean(DEFENDED, "11110"),
        Measured(DEFENDED, PGD, "10010", {"linf": 0.1, "mean_l1": [0.01, 0.04, 0.06, 0.01, 0.01]}),
        Measured(DEFENDED, DEEPFOOL, "11010", {"mean_l1": [0.01, 0.01, 0.02, 0.01, 0.01]}),
        clean(OTHER, "11111"),
    ]
    write(store, measured, bound=[0.1] * 5)
    with connect(store) as connection:
        found = rows(connection, f"from bound_test where name = '{DEFENDED.name}'")
        # The k of the study's defenses. PGD at 1: .04; DeepFool at 2: .02.
        assert [row["k"] for row in found] == [2, 3]
        two, three = found
        assert (two["images"], two["refuted"], two["fooled"]) == (4, 25, 50)
        # sigma(3) is .0167
        assert (three["refuted"], three["attacks"]) == (0, ["DeepFool", "PGD 0.1"])
        interval = stats.binomtest(1, 4).proportion_ci(method="wilson")
        assert (two["low"], two["high"]) == pytest.approx((100 * interval.low, 100 * interval.high), abs=1e-4)
        # Ratios at k = 2: .04 / .025, .02 / .025, and two images where nothing was found.
        assert math.isinf(two["median_ratio"])
        table = by_name(connection, "bound_test")["bound_test"]
    assert table.rows == [
        (DEFENDED.title, "25.0 [4.6, 69.9]", "0.0 [0.0, 49.0]", "none found"),
        (OTHER.title, "0.0 [0.0, 43.4]", "0.0 [0.0, 43.4]", "none found"),
    ]


def test_bound_without_a_defense_is_tested_at_the_papers_k(store):
    measured = [clean(BASE, "111"), Measured(BASE, PGD, "000", {"mean_l1": [0.05, 0.02, 0.1]})]
    write(store, measured, bound=[0.1, 0.1, 0.1])
    with connect(store) as connection:
        found = rows(connection, "select k, refuted, median_ratio from bound_test")
    assert [row["k"] for row in found] == [1, 2, 2.5, 3]
    assert [row["refuted"] for row in found] == pytest.approx([200 / 3, 100 / 3, 100 / 3, 0])
    assert [row["median_ratio"] for row in found] == pytest.approx([1, 2, 2.5, 3])


# --- credit -----------------------------------------------------------------------------------------------


def one_seed(defended: str, twin: str, no_noise: str) -> list[Measured]:
    networks = {BASE: "0" * 20, DEFENDED: defended, TWIN: twin, NO_NOISE: no_noise, MUST_PASS: "1" * 20}
    return [
        each
        for network, right in networks.items()
        for each in (clean(network, "1" * 20), Measured(network, PGD, right, {"linf": 0.1}))
    ]


def test_credit_is_over_the_best_control(store):
    """15 right, 8 of them the twin's; the twin 10, 2 of its own; no_noise 4. PGD training is no control."""
    write(store, one_seed("1" * 15 + "0" * 5, "0" * 7 + "1" * 8 + "1" * 2 + "0" * 3, "1" * 4 + "0" * 16))
    with connect(store) as connection:
        where = f"name = '{DEFENDED.name}' and access in ('robust', 'white_box')"
        found = rows(connection, f"from credit where {where}")
        for row in found:
            assert (row["control"], row["control_accuracy"], row["credit"]) == ("twin", 50, 25)
            assert (row["images"], row["only_network"], row["only_control"]) == (20, 7, 2)
            # Agresti and Min: (7 - 2) / 22 -+ 1.96 / 22 * sqrt(10 - 25 / 22)
            half = 1.959964 / 22 * math.sqrt(10 - 25 / 22)
            expected = (100 * (5 / 22 - half), 100 * (5 / 22 + half))
            assert (row["low"], row["high"]) == pytest.approx(expected)
        assert len(found) == 2
        names = {row["name"] for row in rows(connection, "from credit")}
        assert names == {DEFENDED.name, "control_pgd"}
        (mean,) = rows(
            connection, f"from credit_over_seeds where name = '{DEFENDED.name}' and access = 'robust'"
        )
        assert (mean["better"], mean["rests_on"]) == ("not shown", "one seed: test images only")
        printed = by_name(connection, "white_box", "ranking", "credit")
    assert printed["white_box"].header == ("network", "attack", "eps/10", "best control", "credit")
    lines = {line[0]: line for line in printed["white_box"].rows}
    assert lines[DEFENDED.title][3:] == ("50.0 twin", "+25.0 not shown")
    assert lines["twin"][3:] == ("", "")
    ranked = {line[1]: line[4] for line in printed["ranking"].rows}
    assert ranked[DEFENDED.title] == "+25.0 [-3.8, +49.3] not shown" and ranked["twin"] == ""
    assert "One seed: test images only" in printed["credit"].note


@pytest.mark.parametrize(
    ("defended", "twin", "better"), [("1" * 20, "0" * 20, "not shown"), ("0" * 20, "1" * 20, "no")]
)
def test_one_seed_can_refute_and_not_show(store, defended, twin, better):
    write(store, one_seed(defended, twin, "0" * 20))
    with connect(store) as connection:
        (found,) = rows(
            connection, f"from credit_over_seeds where name = '{DEFENDED.name}' and access = 'robust'"
        )
    assert found["better"] == better


SEEDS = (0, 1, 7)
HITS = {  # right under PGD of 40, by seed
    BASE: (2, 2, 3),
    DEFENDED: (30, 29, 33),
    OTHER: (20, 22, 19),
    TWIN: (10, 12, 15),
    NO_NOISE: (12, 11, 14),
}


def seeded(hits: dict[Network, Sequence[int]], seeds: Sequence[int] = SEEDS) -> list[Measured]:
    made = []
    for position, seed in enumerate(seeds):
        for network, counts in hits.items():
            right = "1" * counts[position] + "0" * (40 - counts[position])
            made += [clean(network, "1" * 40, seed), Measured(network, PGD, right, {"linf": 0.1}, seed=seed)]
    return made


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    store = Store(tmp_path_factory.mktemp("seeds")).open()
    write(store, seeded(HITS), seeds=SEEDS)
    with connect(store) as connection:
        yield connection


def residual_sd(accuracies: np.ndarray) -> tuple[float, int]:
    """By least squares on indicator columns of networks and seeds, and its degrees of freedom."""
    networks, seeds = accuracies.shape
    design = np.hstack(
        [
            np.kron(np.eye(networks), np.ones((seeds, 1))),
            np.kron(np.ones((networks, 1)), np.eye(seeds))[:, 1:],
        ]
    )
    _, squares, rank, _ = np.linalg.lstsq(design, accuracies.ravel(), rcond=None)
    df = accuracies.size - rank
    return math.sqrt(squares[0] / df), df


def accuracies_of(*networks: Network) -> np.ndarray:
    return np.array([HITS[network] for network in networks]) / 0.4


def test_mean_over_seeds_has_a_t_interval_from_the_pooled_residual(three_seeds):
    grid, df = residual_sd(accuracies_of(DEFENDED, OTHER))
    assert df == 2
    (row,) = rows(three_seeds, f"from robust_over_seeds where name = '{DEFENDED.name}'")
    half = stats.t.ppf(0.975, 2) * grid / math.sqrt(3)
    mean = np.mean(HITS[DEFENDED]) / 0.4
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
        (mean, mean - half, min(100, mean + half))
    )
    assert row["least_difference"] == pytest.approx(stats.t.ppf(0.975, 2) * grid * math.sqrt(2 / 3))
    # A network of no grid: itself and the controls, of which it is one.
    pooled, df = residual_sd(accuracies_of(TWIN, NO_NOISE))
    assert df == 2
    (twin,) = rows(three_seeds, "from robust_over_seeds where name = 'twin'")
    half = stats.t.ppf(0.975, 2) * pooled / math.sqrt(3)
    mean = np.mean(HITS[TWIN]) / 0.4
    assert (twin["low"], twin["high"]) == pytest.approx((mean - half, mean + half))
    # The base network alone has its own standard deviation.
    (base,) = rows(three_seeds, "from robust_over_seeds where name = 'base'")
    own = np.std(np.array(HITS[BASE]) / 0.4, ddof=1)
    half = stats.t.ppf(0.975, 2) * own / math.sqrt(3)
    assert base["high"] == pytest.approx(np.mean(HITS[BASE]) / 0.4 + half)
    where = f"layout = 'white_box' and name = '{DEFENDED.name}'"
    (line,) = rows(three_seeds, f"from over_seeds where {where}")
    names = ("accuracy", "low", "high", "least_difference", "seeds", "of_seeds")
    assert [line[name] for name in names] == pytest.approx([row[name] for name in names])


def test_credit_over_seeds(three_seeds):
    """The best control is another one in each seed: 12, 12, 15 of 40; grid and controls are pooled."""
    pooled, df = residual_sd(accuracies_of(DEFENDED, OTHER, TWIN, NO_NOISE))
    half = stats.t.ppf(0.975, df) * pooled * math.sqrt(2 / 3)
    for network in (DEFENDED, OTHER):
        (row,) = rows(
            three_seeds, f"from credit_over_seeds where name = '{network.name}' and access = 'robust'"
        )
        credits = (np.array(HITS[network]) - (12, 12, 15)) / 0.4
        assert (row["credit"], row["low"], row["high"]) == pytest.approx(
            (credits.mean(), credits.mean() - half, credits.mean() + half)
        )
        assert (row["lowest"], row["highest"]) == (credits.min(), credits.max())
        assert (row["control"], row["rests_on"]) == ("no_noise, twin", "3 of 3 seeds")
        assert row["better"] == "yes"
    line = {line[1]: line for line in by_name(three_seeds, "ranking")["ranking"].rows}[DEFENDED.title]
    assert line[4].endswith(" yes")


def test_a_steady_grid_is_tied_to_a_first_that_varies(store):
    """Of the grid's own s the difference is many times what can be shown, of the first's it is not."""
    hits = {
        BASE: (2, 2, 3),
        DEFENDED: (30, 30, 31),
        OTHER: (29, 29, 30),
        TWIN: (10, 12, 15),
        MUST_PASS: (40, 25, 39),
    }
    pooled, df = residual_sd(np.array([hits[TWIN], hits[MUST_PASS]]) / 0.4)
    least = stats.t.ppf(0.975, df) * pooled * math.sqrt(2 / 3)
    ahead = (np.mean(hits[MUST_PASS]) - np.mean(hits[DEFENDED])) / 0.4
    assert 0 < ahead < least
    write(store, seeded(hits), seeds=SEEDS)
    with connect(store) as connection:
        found = {row["name"]: row for row in rows(connection, "from ranking")}
    assert found[DEFENDED.name]["least_difference"] < ahead
    assert (found["control_pgd"]["first"], found[DEFENDED.name]["first"]) == ("first", "tied")


def test_a_wild_network_widens_its_own_interval_alone(store):
    wild = Network("adversarial_images", "adversarial_images")
    calm = {each: HITS[each] for each in (BASE, DEFENDED, OTHER, TWIN, NO_NOISE)}
    write(store, seeded(calm | {wild: (4, 38, 11)}), seeds=SEEDS)
    with connect(store) as connection:
        found = {
            row["name"]: row for row in rows(connection, "from credit_over_seeds where access = 'robust'")
        }
    pooled, df = residual_sd(accuracies_of(DEFENDED, OTHER, TWIN, NO_NOISE))
    half = stats.t.ppf(0.975, df) * pooled * math.sqrt(2 / 3)
    assert found[DEFENDED.name]["high"] - found[DEFENDED.name]["low"] == pytest.approx(2 * half)
    pooled, df = residual_sd(np.array([(4, 38, 11), HITS[TWIN], HITS[NO_NOISE]]) / 0.4)
    half = stats.t.ppf(0.975, df) * pooled * math.sqrt(2 / 3)
    assert found[wild.name]["high"] - found[wild.name]["low"] == pytest.approx(2 * half)


@pytest.mark.parametrize(
    ("better", "low", "high", "lowest", "highest", "seeds"),
    [
        ("yes", 1, 5, 2, 4, 3),
        ("not shown", 1, 5, -1, 9, 3),  # a seed disagrees
        ("not shown", -1, 5, 1, 4, 3),
        ("not shown", 1, 5, 3, 3, 1),
        ("no", -5, -1, -4, -2, 3),
        ("not shown", -5, -1, -9, 1, 3),
        ("not shown", "null", "null", 1, 2, 2),  # no spread was measured
    ],
)
def test_words(arithmetic, better, low, high, lowest, highest, seeds):
    assert values(arithmetic, f"select is_better({low}, {high}, {lowest}, {highest}, {seeds})") == (better,)


def test_a_seed_that_is_missing_widens_nothing_and_is_said(store):
    measured = [each for each in seeded(HITS) if (each.network, each.seed) != (OTHER, 7)]
    write(store, measured, seeds=SEEDS)
    with connect(store) as connection:
        # The grid has one complete network left: all are pooled, without the incomplete one.
        pooled, df = residual_sd(accuracies_of(DEFENDED, TWIN, NO_NOISE))
        (row,) = rows(connection, f"from robust_over_seeds where name = '{OTHER.name}'")
        half = stats.t.ppf(0.975, df) * pooled / math.sqrt(2)
        assert (row["seeds"], row["of_seeds"]) == (2, 3)
        assert (row["low"], row["high"]) == pytest.approx((52.5 - half, 52.5 + half))
        printed = by_name(connection, "white_box")["white_box"]
    line = {line[0]: line[2] for line in printed.rows}[OTHER.title]
    assert line.startswith("52.5 [") and line.endswith("] 2 of 3 seeds")


# --- tests of pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [1, 2, 3, 6, 22, 30, 31, 60, 250])
def test_t_quantiles(arithmetic, df):
    assert values(arithmetic, f"select t_975({df})")[0] == pytest.approx(stats.t.ppf(0.975, df), abs=2e-6)
    assert values(arithmetic, "select t_975(0), t_975(null)") == (None, None)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 3), (0, 5), (10, 2), (2, 10), (263, 283), (1, 900)])
def test_mcnemar(arithmetic, a, b):
    expected = stats.binomtest(a, a + b).pvalue if a + b else 1
    assert values(arithmetic, f"select mcnemar({a}::bigint, {b}::bigint)")[0] == pytest.approx(
        expected, rel=1e-9
    )


def test_pairs_are_adjusted_by_holm(store):
    right = {BASE: "0" * 20, DEFENDED: "1" * 10 + "0" * 10, TWIN: "0" * 4 + "1" * 12 + "0" * 4}
    made = [
        each
        for network, digits in right.items()
        for each in (clean(network, "1" * 20), Measured(network, PGD, digits, {"linf": 0.1}))
    ]
    write(store, made)
    with connect(store) as connection:
        found = {(row["a"], row["b"]): row for row in rows(connection, "from pairs")}
        table = by_name(connection, "pairs")["pairs"]
    counts = {
        ("base", DEFENDED.name): (0, 10),
        ("base", "twin"): (0, 12),
        (DEFENDED.name, "twin"): (4, 6),
    }
    assert {pair: (row["only_a"], row["only_b"]) for pair, row in found.items()} == counts
    p = {pair: stats.binomtest(a, a + b).pvalue for pair, (a, b) in counts.items()}
    assert {pair: row["p"] for pair, row in found.items()} == pytest.approx(p)
    holm = {
        ("base", "twin"): 3 * p["base", "twin"],
        ("base", DEFENDED.name): 2 * p["base", DEFENDED.name],
        (DEFENDED.name, "twin"): p[DEFENDED.name, "twin"],
    }
    assert {pair: row["p_holm"] for pair, row in found.items()} == pytest.approx(holm)
    verdicts = {pair: row["verdict"] for pair, row in found.items()}
    assert verdicts["base", "twin"] == "twin is better" and verdicts[DEFENDED.name, "twin"] == "tied"
    assert [line[-1] for line in table.rows] == ["b is better", "b is better", "tied"]


def test_holm_never_goes_down(store):
    """The second smallest p times 2 is less than the smallest times 3: it gets the latter."""
    right = {BASE: "0" * 20, DEFENDED: "1" * 8 + "0" * 12, TWIN: "0" * 12 + "1" * 8}
    write(
        store,
        [
            each
            for network, digits in right.items()
            for each in (clean(network, "1" * 20), Measured(network, PGD, digits, {"linf": 0.1}))
        ],
    )
    with connect(store) as connection:
        found = rows(connection, "select p, p_holm from pairs order by p, p_holm")
    p = stats.binomtest(0, 8).pvalue
    assert [row["p_holm"] for row in found] == pytest.approx([3 * p, 3 * p, 1])


# --- the ranking ------------------------------------------------------------------------------------------

PLANTED = Network("planted", "finished", own_role="model")
FAILS = "gradients are zero at 100 % of images"


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The planted network reads 100 % and fails a check; 18, 17 and 2 of 20 the others."""
    right = {BASE: 2, DEFENDED: 18, TWIN: 17, PLANTED: 20}
    measured = [
        each
        for network, count in right.items()
        for each in (
            clean(network, "1" * 20),
            Measured(network, PGD, "1" * count + "0" * (20 - count), {"linf": 0.1}),
        )
    ]
    checks = [
        check(PLANTED, "zero_gradient", "fail", FAILS, statistic=1.0, evidence=[3, 4]),
        check(PLANTED, "rerun", "pass", "logits are repeated"),
        check(DEFENDED, "zero_gradient", "pass", "gradients are zero at 0 % of images", statistic=0.0),
        check(DEFENDED, "weak_pgd", "warn", "APGD finds 2 % more", statistic=0.02, norm="linf", epsilon=0.1),
        check(TWIN, "zero_gradient", "pass", "gradients are zero at 0 % of images", statistic=0.0),
        check(TWIN, "rerun", "none", "not tried", statistic=None, threshold=None),
    ]
    smoothed = [certified(DEFENDED, [0.3] * 5 + [0.1] * 15, "1" * 4 + "0" * 16, sd=0.25)]
    store = Store(tmp_path_factory.mktemp("ranked")).open()
    write(store, measured, bound=[0.1] * 20, checks=checks, smoothed=smoothed)
    with connect(store) as connection:
        yield connection


def test_a_failed_check_takes_a_network_out_of_the_ranking(ranked):
    found = rows(ranked, "from ranking")
    assert [(row["name"], row["rank"], row["first"], row["verdict"]) for row in found] == [
        (DEFENDED.name, 1, "first", "warn"),
        ("twin", 2, "tied", "pass"),
        ("base", 3, "below", "not checked"),
        ("planted", None, None, "fail"),
    ]
    assert found[3]["reason"] == f"not measurable: {FAILS}"
    # 4 of 20 are certified as their class within .25.
    assert (found[0]["certified"], found[0]["certified_radius"], found[1]["certified"]) == (20, 0.25, None)
    table = by_name(ranked, "ranking")["ranking"]
    assert table.header[5] == "certified l2 0.25"
    assert [line[0] for line in table.rows] == ["1", "2 tied", "3", ""]
    assert table.rows[0][5] == "20.0" and table.rows[0][-1] == "warn: APGD finds 2 % more"
    assert table.faint == {3} and table.rows[3][1] == "planted †"


def test_a_twin_is_judged_as_the_base_networks_are(store):
    write(
        store, one_seed("1" * 20, "0" * 20, "0" * 20), checks=[check(BASE, "apgd", "warn", "attack too weak")]
    )
    with connect(store) as connection:
        found = {row["name"]: row["verdict"] for row in rows(connection, "from verdicts")}
    assert (found["base"], found["twin"], found["no_noise"]) == ("warn", "warn", "not checked")


def test_the_headline_is_what_the_ranking_says_a_seed(ranked):
    found = {(row["name"], row["metric"]): row["value"] for row in rows(ranked, "from headline")}
    assert found == {
        ("base", "robust/linf_0.1"): 0.1,
        (DEFENDED.name, "robust/linf_0.1"): 0.9,
        (DEFENDED.name, "credit/linf_0.1"): pytest.approx(0.05),
        (DEFENDED.name, "certified/l2_0.25"): 0.2,
        ("twin", "robust/linf_0.1"): 0.85,
        ("planted", "robust/linf_0.1"): 1,
        ("planted", "credit/linf_0.1"): pytest.approx(0.15),
    }


def test_rows_of_failed_networks_are_marked_everywhere(ranked):
    found = by_name(ranked) | by_name(ranked, "check_results")
    for name in ("table7", "white_box", "bound_test", "check_results"):
        table = found[name]
        (position,) = table.faint
        assert table.rows[position][0] == "planted †"
        assert f"† planted: not measurable: {FAILS}." in table.note
    text = render([found["ranking"]], "md")
    assert f"fail: not measurable: {FAILS} |" in text


def test_failed_rows_are_dim_in_a_terminal():
    table = Table("x", "", "", ("a",), [("one",), ("two",)], frozenset({1}))
    console = Console(force_terminal=True, width=40, color_system="standard")
    with console.capture() as captured:
        console.print(_grid(table))
    one, two = captured.get().splitlines()[-2:]
    assert "\x1b[2m" in two and "\x1b[2m" not in one


def test_checks_are_a_table_of_raw_numbers(ranked):
    table = by_name(ranked, "check")["check_results"]
    assert table.header == ("network", "rerun", "weak pgd", "zero gradient", "verdict")
    assert table.rows == [
        ("threshold", "0.01", "0.01", "0.01", ""),
        (DEFENDED.title, "", "0.02 warn", "0", "warn"),
        ("twin", "none", "", "0", "pass"),
        ("planted †", "0.5", "", "1 fail", "fail"),
    ]
    (row,) = rows(ranked, "from check_results where verdict = 'fail'")
    assert (row["evidence"], row["role"], row["sentence"]) == ([3, 4], "model", FAILS)


def test_what_is_printed_fits(ranked, three_seeds):
    for connection in (ranked, three_seeds):
        lines = render(laid_out(connection), "rich", width=115).splitlines()
        assert max(map(len, lines)) <= 115


def test_what_is_settled_is_what_the_views_say(store, monkeypatch):
    write(store, several_attacks(), bound=[0.1] * 10)

    def said() -> tuple[set[str], dict[str, list[dict]]]:
        """The names of tables, and the rows of what may be settled."""
        kinds = "select table_name from information_schema.tables where table_type = 'BASE TABLE'"
        with connect(store) as connection:
            assert query(connection, "from ranking").num_rows == 2
            tables = {row["table_name"] for row in rows(connection, kinds)}
            return tables, {name: rows(connection, f"from {name} order by all") for name in SETTLED}

    tables, settled = said()
    assert {*SETTLED} <= tables
    monkeypatch.setattr(database, "SETTLED", ())
    tables, unsettled = said()
    assert not {*SETTLED} & tables
    assert settled == unsettled
