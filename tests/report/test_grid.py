"""The (k, n) grid, every attack on every network, and the paper's numbers beside ours, against the tables."""

from dataclasses import replace

import pytest
from handmade import BASE, DEEPFOOL, GRID, WHITE_BOX, Study, fill
from measured import Measured, clean, write

from harness.report.database import connect, query
from harness.report.figures import drawn
from harness.report.page.heat_map import Cell, heat_map
from harness.report.tables import laid_out
from harness.results.store import Store


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("grid") / "results").open()
    fill(store, Study())
    with connect(store) as opened:
        yield opened


def test_the_grid_is_that_of_the_tables(connection):
    rows = query(connection, "from grid where part = 1").to_pylist()
    of_tables = query(connection, "from over_seeds where layout = 'black_box'").to_pylist()
    expected = {(row["name"], row["attack_title"]): row for row in of_tables if row["role"] == "defense"}
    base = {row["attack_title"]: row["accuracy"] for row in of_tables if row["role"] == "base"}
    assert len(rows) == len(expected) == 4 * len(GRID)
    for row in rows:
        same = expected[row["name"], row["test"]]
        assert all(row[name] == same[name] for name in ("accuracy", "low", "high", "images", "k", "n"))
        assert row["base_accuracy"] == base[row["test"]]


def test_the_figure_has_a_panel_for_each_test_and_a_line_for_each_n(connection):
    (study,) = query(connection, "from studies").to_pylist()
    (drawing,) = drawn(connection, study, "grid")
    panels = [axes for axes in drawing.figure.axes if axes.get_visible()]
    rows = query(connection, "from grid").to_pylist()
    assert [axes.get_title() for axes in panels] == list(dict.fromkeys(row["test"] for row in rows))
    for axes in panels:
        first, second = axes.containers
        for n, line in ((10, first.lines[0]), (20, second.lines[0])):
            mine = [row for row in rows if row["test"] == axes.get_title() and row["n"] == n]
            assert list(line.get_xdata()) == [row["k"] for row in mine]
            assert list(line.get_ydata()) == [row["accuracy"] for row in mine]


def test_the_heat_map_takes_the_worst_step_size(tmp_path):
    store = Store(tmp_path / "results").open()
    fewest, most = ("1" * right + "0" * (10 - right) for right in (3, 6))
    measured = [clean(BASE, "1" * 10), Measured(BASE, DEEPFOOL, "1" * 10, access="black_box")]
    measured += [
        Measured(BASE, attack, right) for attack, right in zip(WHITE_BOX, (most, fewest), strict=True)
    ]
    write(store, measured)
    with connect(store) as opened:
        found = heat_map(query(opened, "from under_attack").to_pylist())
    assert [title for title, _ in found.attacks] == ["DeepFool (black box)", "PGD 8/255"]
    assert found.counted == "10 images, 1 seed of each."
    ((network, cells),) = found.rows
    assert network == "base"
    assert cells == [Cell("100.0", "[72.2, 100.0]", 0.0), Cell("30.0", "[10.8, 60.3]", 0.7)]


def test_over_seeds_the_heat_map_has_students_interval(tmp_path):
    store = Store(tmp_path / "results").open()
    seeds = {0: "1110000000", 1: "1111000000", 2: "1111100000"}
    write(
        store,
        [Measured(BASE, DEEPFOOL, right, access="black_box", seed=seed) for seed, right in seeds.items()],
        seeds=tuple(seeds),
    )
    with connect(store) as opened:
        (row,) = query(opened, "from under_attack").to_pylist()
    half = 4.302653 * 10 / 3**0.5
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((40, 40 - half, 40 + half))
    assert (row["seeds"], row["images"]) == (3, 10)


def test_every_number_of_the_paper_stands_beside_ours(connection):
    rows = query(connection, "from beside_paper").to_pylist()
    (table,) = laid_out(connection, ("beside_paper",))
    assert len(table.rows) == len(rows)
    compared = query(connection, "from over_seeds where paper is not null").to_pylist()
    mine = {(row["what"], row["item"], row["place"]): row for row in rows if row["place"] in (3, 4)}
    assert len(mine) == len(compared) > 10
    for row in compared:
        same = mine[row["title"], row["attack_title"], 4 if row["layout"] == "table7" else 3]
        assert same["paper"] == row["paper"] and same["ours"] == row["accuracy"]
        assert same["verdict"] == ("differs" if row["differs"] else "reproduced")
    sigmas = [row for row in rows if row["source"] == "Table II"]
    assert len(sigmas) == 24 and {row["verdict"] for row in sigmas} == {"not measured here"}  # 10 images
    unreadable = {row["source"] for row in rows if row["verdict"] == "unreadable"}
    assert unreadable == {"Table III", "V-E"}


def test_one_number_of_table_3_can_be_read(tmp_path):
    """C&W on MNIST, 17.85 % within the mean sigma, stands in the text (V-C)."""
    store = Store(tmp_path / "results").open()
    cw = replace(DEEPFOOL, name="cw_l2", title="C&W (l2)", method="cw_l2")
    fill(store, Study(paper="mnist", attacks=(cw, DEEPFOOL)), right=lambda *_: 5)
    with connect(store) as opened:
        rows = query(opened, "from beside_paper where source = 'Table III'").to_pylist()
    assert [(row["item"], row["paper"]) for row in rows] == [("C&W (l2)", 17.85), ("DeepFool", None)]
    assert rows[0]["verdict"] in ("differs", "reproduced") and rows[1]["verdict"] == "unreadable"
