"""The tables as a reader meets them: the paper's layouts, and how terminal, Markdown and CSV show them."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import duckdb
import pytest
from handmade import ADVERSARIAL, BASE, EPSILONS, GRID, Network, Study, bound_network, fill
from test_views import SEEDS, TRADES, by_seed

from harness.errors import Failed, HarnessError
from harness.report.database import connect
from harness.report.printing import render, show, show_query
from harness.report.tables import TABLES, as_views, laid_out, numbers
from harness.report.tables.table import Table
from harness.results.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Store:
    """Results of one study with nothing missing but the trainings' own tables; only read."""
    store = Store(tmp_path_factory.mktemp("report") / "results").open()
    fill(store, Study())
    return store


@pytest.fixture(scope="module")
def full(results) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(results) as connection:
        yield connection


def by_name(connection: duckdb.DuckDBPyConnection) -> dict[str, Table]:
    return {table.name: table for table in laid_out(connection)}


def test_layouts(full):
    found = by_name(full)
    assert list(found) == ["table2", "table3", "table5", "table7", "white_box", "ranking", "bound_test"]
    assert found["table2"].header == ("k", "other class", "any class", "paper")
    assert found["table2"].rows[0][3] == "0.011 / 0.062 / 0.127"
    assert [line[0] for line in found["table3"].rows] == ["FGSM 2/255", "FGSM 0.3", "DeepFool"]
    assert found["table5"].header == ("attack", "n", "base", "k=1", "k=2.5")
    assert found["table5"].rows[:3] == [
        (
            "Clean",
            "10",
            "90.0 [59.6, 98.2] (83.91)",
            "80.0 [49.0, 94.3] (87.52)",
            "90.0 [59.6, 98.2] (87.27)",
        ),
        ("", "20", "", "80.0 [49.0, 94.3] (88.41)", "90.0 [59.6, 98.2] (88.64)"),
        (
            "FGSM 2/255",
            "10",
            "30.0 [10.8, 60.3] (55.91)",
            "40.0 [16.8, 68.7] (81.32)*",
            "50.0 [23.7, 76.3] (80.35)*",
        ),
    ]
    assert (
        found["table5"].rows[4][:2] == ("FGSM 0.3", "10")
        and found["table5"].rows[4][2] == "30.0 [10.8, 60.3]"
    )
    assert found["table7"].title == "Table VII: adversarial training, cifar10"
    assert found["table7"].rows == [
        (
            "adversarial images fgsm 2/255",
            "100.0 [72.2, 100.0]",
            "40.0 [16.8, 68.7] (82.54)*",
            "30.0 [10.8, 60.3] (83.06)*",
        ),
        (
            "imperceptible bound k=2.5 n=10, strongest on test images",
            "90.0 [59.6, 98.2]",
            "50.0 [23.7, 76.3]",
            "50.0 [23.7, 76.3]",
        ),
        (
            "imperceptible bound, best for each attack on test images",
            "90.0 [59.6, 98.2]",
            "50.0 [23.7, 76.3] (83.53)*",
            "50.0 [23.7, 76.3] (85.94)*",
        ),
    ]
    assert found["table7"].header == ("network", "Clean", "FGSM 2/255", "DeepFool")
    assert found["white_box"].header == ("network", "attack", "eps/4", "eps/10")
    assert found["white_box"].rows == [
        ("base", "PGD 8/255", "0.0 [0.0, 27.8]", "0.0 [0.0, 27.8]"),
        ("imperceptible bound k=2.5 n=10", "PGD 8/255", "0.0 [0.0, 27.8]", "0.0 [0.0, 27.8]"),
    ]
    assert all("missing" not in table.note for table in found.values())
    for name in ("table5", "table7", "white_box"):
        assert "one seed: test images only, 10 images" in found[name].note


def test_layouts_off_the_paper(store):
    fill(store, Study(dataset="digits", title="digits", paper=None))
    with connect(store) as connection:
        found = by_name(connection)
        assert found["black_box"].title == "Black box (layout of Tables IV-VI), digits"
        assert found["black_box"].rows[0][2] == "90.0 [59.6, 98.2]"
        assert found["table7"].header == ("network", "Clean", "FGSM 2/255", "FGSM 0.3", "DeepFool")
        assert not any("paper's" in table.note for name, table in found.items() if name != "table7")
        assert "(paper" not in render(found.values(), "rich")
        with pytest.raises(HarnessError, match="see black_box"):
            laid_out(connection, ("table5",))


def test_words(full):
    """No word that means something else in this field, nor one of the paper's letters."""
    text = render(laid_out(full), "md")
    for word in ("vib", "f1 ", "original", "defended"):
        assert word not in text


def test_any_method_is_a_line(store):
    theirs = Network("theirs", "someone's own method")
    networks = (BASE, *GRID, ADVERSARIAL, TRADES, theirs)
    fill(store, Study(networks=networks, white_box={0: (BASE, TRADES)}))
    with connect(store) as connection:
        found = by_name(connection)
    assert [line[0] for line in found["table7"].rows] == [
        "adversarial images fgsm 2/255",
        "trades epsilon=0.1 beta=6",
        "theirs",
        "imperceptible bound k=2.5 n=10, strongest on test images",
        "imperceptible bound, best for each attack on test images",
    ]
    assert found["table7"].rows[2] == ("theirs", "90.0 [59.6, 98.2]", "30.0 [10.8, 60.3]", "20.0 [5.7, 51.0]")
    assert [line[0] for line in found["white_box"].rows] == ["base", "trades epsilon=0.1 beta=6"]


def test_two_defenses_of_one_method_have_a_grid_each(store):
    redrawn = [bound_network(k, 10, "with_redraw", redraw=True) for k in (1.0, 3.0)]
    fill(store, Study(networks=(BASE, *GRID, *redrawn)))
    with connect(store) as connection:
        plain, other = laid_out(connection, ("table5",))
        lines = [line[0] for line in by_name(connection)["table7"].rows]
    assert plain.title == "Table V: black box, imperceptible bound, cifar10"
    assert plain.header == ("attack", "n", "base", "k=1", "k=2.5") and len(plain.rows) == 8
    assert other.title == "Table V: black box, with redraw, cifar10"
    assert other.header == ("attack", "n", "base", "k=1", "k=3")
    assert [line[0] for line in other.rows] == ["Clean", "FGSM 2/255", "FGSM 0.3", "DeepFool"]
    assert other.rows[0][2:] == (
        "90.0 [59.6, 98.2] (83.91)",
        "80.0 [49.0, 94.3] (87.52)",
        "90.0 [59.6, 98.2] (86.58)",
    )
    assert lines == [
        "imperceptible bound k=2.5 n=10, strongest on test images",
        "with redraw k=3 n=10, strongest on test images",
        "imperceptible bound, best for each attack on test images",
        "with redraw, best for each attack on test images",
    ]


def test_a_base_network_alone(store):
    fill(store, Study(networks=(BASE,), white_box={0: (BASE,)}))
    with connect(store) as connection:
        found = by_name(connection)
    assert found["table5"].header == ("attack", "base")
    assert found["table5"].rows[1] == ("FGSM 2/255", "30.0 [10.8, 60.3] (55.91)")
    assert found["table7"].rows == []


# --- several seeds ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeded(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Three seeds; the last one's clean images were not classified by the base network yet."""
    store = Store(tmp_path_factory.mktemp("seeds") / "results").open()
    white_box = dict.fromkeys(SEEDS, (BASE, GRID[0]))
    fill(
        store,
        Study(seeds=SEEDS, networks=(BASE, *GRID[:2]), white_box=white_box),
        lambda cell: (
            (cell.columns.get("name"), cell.columns.get("attack"), cell.columns.get("seed"))
            != ("base", "none", 7)
        ),
        by_seed,
    )
    with connect(store) as connection:
        yield connection


def test_mean_and_spread(seeded):
    found = by_name(seeded)
    assert list(found) == [
        *("table2", "table3", "table5", "table7", "white_box", "ranking", "bound_test", "seeds")
    ]
    assert found["table5"].rows[:2] == [
        (
            "Clean",
            "10",
            "85.0 2 of 3 seeds (83.91)",
            "80.0 [33.5, 100.0] (87.52)",
            "90.0 [43.5, 100.0] (87.27)",
        ),
        (
            "FGSM 2/255",
            "10",
            "76.7 [38.7, 100.0] (55.91)",
            "76.7 [76.7, 76.7] (81.32)",
            "76.7 [76.7, 76.7] (80.35)",
        ),
    ]
    note = found["table5"].note
    # The grid: 100, 70, 70 and 80, 90, 100. What both means leave is 15, -5, -10 and its negative, with 2
    # degrees of freedom: s = 18.71, t = 4.303.
    assert "mean over 3 seeds [95 % t interval]" in note
    assert "differ by less than 0.0 (FGSM 2/255) to 65.7 points (Clean) are tied" in note
    assert "* where every seed differs from it at 95 %, to the same side: 0 of 9" in note
    assert found["table7"].rows[0][:2] == (
        "imperceptible bound, strongest on test images",
        "96.7 [50.2, 100.0]",
    )
    assert [line[0] for line in found["white_box"].rows] == [
        "base",
        GRID[0].title,
    ]
    assert "Means over the base networks of 3 seeds." in found["table3"].note


def test_each_seed_apart(seeded):
    table = by_name(seeded)["seeds"]
    assert table.header == ("network", "attack", "seed 0", "seed 1", "seed 7")
    lines = {line[:2]: line[2:] for line in table.rows}
    assert lines["base", "Clean"] == ("90.0 [59.6, 98.2]", "80.0 [49.0, 94.3]", "-")
    assert lines["base", "FGSM 2/255"] == ("90.0 [59.6, 98.2]", "80.0 [49.0, 94.3]", "60.0 [31.3, 83.2]")
    # The other networks are not in the white box: they have no hole there.
    assert ("imperceptible bound k=2.5 n=10", "PGD 8/255 in the white box, eps/4") not in lines
    assert table.note.endswith("1 cell missing (-).")


def test_one_seed_is_apart_when_asked_for(full):
    (table,) = laid_out(full, ("seeds",))
    assert table.header == ("network", "attack", "seed 0") and table.rows[0] == (
        "base",
        "Clean",
        "90.0 [59.6, 98.2]",
    )


# --- which tables -----------------------------------------------------------------------------------------


def test_names(full):
    picked = laid_out(full, ("black_box", "effectiveness", "missing"))
    assert [table.name for table in picked] == ["table3", "table5", "missing"]
    for function in (laid_out, as_views):
        with pytest.raises(HarnessError, match="did you mean 'table5'"):
            function(full, ("tabel5",))


def test_each_table_is_a_view(full):
    for name in TABLES:
        (view,) = as_views(full, (name,))
        assert view.name == name


def test_failures_come_last(store):
    study = Study()
    evaluation = next(cell for *_, cell in study.evaluations())
    fill(store, study, lambda cell: cell != evaluation)
    store.record_failure(replace(evaluation, title="what it was called then"), Failed("out of memory"))
    with connect(store) as connection:
        *_, failed = laid_out(connection)
        (table,) = laid_out(connection, ("failed",))
    assert failed == table
    assert (failed.title, failed.rows) == ("Failed", [("small", "base against none", "out of memory")])


# --- printing ---------------------------------------------------------------------------------------------


def test_csv_is_the_long_view(full, capsys):
    show(full, ("black_box",), "csv")
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    first = found[0]
    assert len(found) == 24
    assert (first["study"], first["name"], first["k"], first["paper"]) == ("small", "base", "", "83.91")
    assert float(found[1]["epsilon"]) == EPSILONS[0] and first["differs"] == "false"
    show(full, (), "csv")
    blocks = capsys.readouterr().out.split("\n\n")
    names = [block.splitlines()[0] for block in blocks]
    assert names == [
        *("# table2", "# table3", "# fragility", "# black_box", "# table7", "# white_box"),
        *("# ranking", "# checks", "# check_results", "# bound_test"),
        *("# certified_accuracy", "# sandwich"),
    ]


def test_markdown(full):
    text = render([Table("x", "Title", "A note.", ("a", "b|c"), [("1", "2 | 3")])], "md")
    assert text == "### Title\n\n| a | b\\|c |\n| ---: | --- |\n| 1 | 2 \\| 3 |\n\nA note.\n"
    assert "| Clean | 10 | 90.0 [59.6, 98.2] (83.91) |" in render(laid_out(full), "md")


def test_rich_is_no_markup_and_fits(full, seeded):
    text = render([Table("x", "[bold]T[/]", "", ("[red]a",), [("[1, 2]",)])], "rich", width=80)
    assert "[bold]T[/]" in text and "[red]a" in text and "[1, 2]" in text
    for connection in (full, seeded):
        assert max(map(len, render(laid_out(connection), "rich", width=120).splitlines())) <= 120


def test_points_stand_in_one_column():
    table = Table("x", "", "", ("a", "b"), [("1", "9.1 [8.0, 9.9]"), ("2", "10.2 [9.0, 11.0]"), ("3", "-")])
    lines = render([table], "rich", width=80).splitlines()
    assert [line[3:].rstrip() for line in lines[2:]] == [" 9.1 [8.0, 9.9]", "10.2 [9.0, 11.0]", "   -"]


def test_a_first_column_of_sentences_leaves_the_others_room():
    sentence = "Seconds grow by O(n + k), adversarial training's by O(m n + k) (V-F)"
    table = Table("x", "", "", ("claim", "verdict", "why"), [(sentence, "not reproduced", "word " * 12)])
    lines = render([table], "rich", width=80).splitlines()
    assert any("not reproduced" in line for line in lines) and max(map(len, lines)) <= 80


def test_show_query(full, capsys):
    columns = "study, k, 1 / 3 as third, null as nothing, true as yes"
    show_query(full, f"select {columns} from black_box where k > 2 limit 1", "csv")
    assert capsys.readouterr().out == "study,k,third,nothing,yes\nsmall,2.5,0.3333333333333333,,true\n"
    show_query(full, "from evaluation", "rich")
    shown = capsys.readouterr().out
    assert "The first 200 of 280 rows" in shown and len(shown.splitlines()) < 210


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.duration(9.96), "10.0 s"),
        (numbers.duration(90), "90 s"),
        (numbers.duration(3 * 3600), "3.0 h"),
        (numbers.size(12_345), "12 kB"),
        (numbers.size(3_400_000), "3.4 MB"),
        (numbers.significant(12_345_678, 3), "12,300,000"),
        (numbers.significant(0.012345, 3), "0.0123"),
        (numbers.exact(None), ""),
        (numbers.exact(True), "true"),
        (numbers.short(1 / 3), "0.3333"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


# --- what the report is made of ---------------------------------------------------------------------------

_FRESH = """
import os, pathlib, pkgutil, sys
import harness.report
for module in pkgutil.walk_packages(harness.report.__path__, "harness.report."):
    __import__(module.name)
from harness.report.database import connect
from harness.report.printing import show, show_query
from harness.results.store import Store

def threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0

before = threads()
with connect(Store(sys.argv[1])) as connection:
    for format in ("rich", "md", "csv"):
        show(connection, (), format)
        show_query(connection, "from evaluation", format)
after = threads()
heavy = {"torch", "ray", "mlflow", "foolbox", "faiss", "pydantic", "sklearn"}
settings = {"spec", "plan", "study", "attacks", "defenses", "networks", "pipeline"}
loaded = {name.split(".")[0] for name in sys.modules} & heavy
loaded |= {name for name in sys.modules if name.startswith("harness.") and name.split(".")[1] in settings}
print(before == after, sorted(loaded), file=sys.stderr)
"""


def test_a_fresh_interpreter_computes_nothing_and_leaves_no_thread(results):
    """Neither torch nor Ray nor any settings class is imported.

    Once all is closed, no thread of DuckDB's or Arrow's is left that could hold what is Python's when the
    interpreter ends.
    """
    command = [sys.executable, "-c", _FRESH, str(results.root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "True []\n")
    assert "Table V" in done.stdout


def test_ends_well_each_time(results):
    """An interpreter that ends while a thread drops what is Python's aborts (exit code 134), now and then."""
    script = (
        "import sys; from harness.report.database import connect; from harness.report.printing import show;"
        "from harness.results.store import Store\n"
        "with connect(Store(sys.argv[1])) as connection: show(connection, ('black_box',), 'csv')"
    )
    command = [sys.executable, "-c", script, str(results.root)]
    for _ in range(5):
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [process.wait(timeout=120) for process in running] == [0] * 4
