"""The tables as a reader meets them: the paper's layouts, and what a terminal, Markdown and CSV make of them."""

import csv
import io
from collections.abc import Iterator

import duckdb
import pytest
from test_views import EPSILONS, fill, study

from harness import report
from harness.errors import HarnessError
from harness.report import long_tables, render, tables
from harness.store import Store
from harness.views import connect


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Results of one study with nothing missing but the trainings' own tables; only read."""
    store = Store(tmp_path_factory.mktemp("report") / "results").open()
    fill(store, study())
    with connect(store) as connection:
        yield connection


def test_layouts(full):
    found = {table.name: table for table in tables(full)}
    assert list(found) == ["table2", "table3", "table5", "table7", "white_box"]
    assert (
        found["table2"].header == ("k", "other class", "any class", "paper")
        and found["table2"].rows[0][3] == "0.011 / 0.062 / 0.127"
    )
    assert found["table5"].header == ("attack", "n", "original", "k=1", "k=2.5")
    assert found["table5"].rows[:3] == [
        ("Clean", "10", "90.0 ±19.3 (83.91)", "80.0 ±22.7 (87.52)", "90.0 ±19.3 (87.27)"),
        ("", "20", "", "80.0 ±22.7 (88.41)", "90.0 ±19.3 (88.64)"),
        ("FGSM 2/255", "10", "30.0 ±24.8 (55.91)", "40.0 ±26.0 (81.32)*", "50.0 ±26.3 (80.35)*"),
    ]
    assert found["table5"].rows[4][:2] == ("FGSM 0.3", "10") and found["table5"].rows[4][2] == "30.0 ±24.8"
    assert [line[0] for line in found["table7"].rows] == [
        "AT with FGSM 2/255",
        "defended k=2.5 n=10",
        "defended, best for each",
    ]
    assert found["table7"].header == ("training", "Clean", "FGSM 2/255", "DeepFool")
    assert found["white_box"].header == ("network", "epsilon", "eps/4", "eps/10")
    assert found["white_box"].rows[0][:2] == ("original", "8/255")
    assert all("missing" not in table.note for table in found.values())


def test_layouts_off_the_paper(store):
    fill(store, study(source="digits"))
    connection = connect(store)
    found = {table.name: table for table in tables(connection)}
    assert (
        found["black_box"].title == "Black box (layout of Tables IV-VI), digits"
        and found["black_box"].rows[0][2] == "90.0 ±19.3"
    )
    assert found["table7"].header == ("training", "Clean", "FGSM 2/255", "FGSM 0.3", "DeepFool")
    assert not any("paper's" in table.note for name, table in found.items() if name != "table7")
    assert "(paper" not in render(found.values(), "rich")
    with pytest.raises(HarnessError, match="see black_box"):
        tables(connection, ("table5",))


def test_names(full):
    assert [table.name for table in tables(full, ("black_box", "effectiveness", "missing"))] == [
        "table3",
        "table5",
        "missing",
    ]
    for function in (tables, long_tables):
        with pytest.raises(HarnessError, match="did you mean 'table5'"):
            function(full, ("tabel5",))


def test_csv_is_the_long_view(full, capsys):
    report.show(full, ("black_box",), "csv")
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (
        len(found) == 24
        and found[0]["study"] == "small"
        and found[0]["k"] == ""
        and found[0]["paper"] == "83.91"
    )
    assert float(found[1]["epsilon"]) == EPSILONS[0] and found[0]["differs"] == "false"
    report.show(full, (), "csv")
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "# table2",
        "# table3",
        "# black_box",
        "# table7",
        "# white_box",
    ]


def test_markdown(full):
    text = render([report.Table("x", "Title", "A note.", ("a", "b|c"), [("1", "2 | 3")])], "md")
    assert text == "### Title\n\n| a | b\\|c |\n| ---: | --- |\n| 1 | 2 \\| 3 |\n\nA note.\n"
    assert "| Clean | 10 | 90.0 ±19.3 (83.91) |" in render(tables(full), "md")


def test_rich_is_no_markup_and_fits(full):
    text = render([report.Table("x", "[bold]T[/]", "", ("[red]a",), [("[1, 2]",)])], "rich", width=80)
    assert "[bold]T[/]" in text and "[red]a" in text and "[1, 2]" in text
    assert max(map(len, render(tables(full), "rich", width=120).splitlines())) <= 120


def test_show_query(full, capsys):
    report.show_query(
        full,
        "select study, k, 1 / 3 as third, null as nothing, true as yes from black_box where k > 2 limit 1",
        "csv",
    )
    assert capsys.readouterr().out == "study,k,third,nothing,yes\nsmall,2.5,0.3333333333333333,,true\n"
    report.show_query(full, "from evaluation", "rich")
    shown = capsys.readouterr().out
    assert "The first 200 of 280 rows" in shown and len(shown.splitlines()) < 210


@pytest.mark.parametrize(
    ("epsilon", "text"), [(8 / 255, "8/255"), (16 / 255, "16/255"), (0.3, "0.3"), (0.2, "0.2"), (1.0, "1")]
)
def test_epsilon(epsilon, text):
    assert report._epsilon(epsilon) == text
