"""Every table, view and column has its meaning written down, and nothing is written of what is not there."""

import csv
import io
from collections.abc import Iterator

import duckdb
import pytest
from commands import call, refused
from handmade import Study, fill

from harness.report import meanings
from harness.report.database import connect, query
from harness.results.records import SCHEMAS
from harness.results.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("meanings") / "results").open()
    fill(store, Study())
    return store


@pytest.fixture(scope="module")
def connection(store) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(store) as connection:
        yield connection


@pytest.fixture(scope="module")
def columns(connection) -> set[tuple[str, str]]:
    sql = "select table_name, column_name from information_schema.columns"
    return {tuple(row.values()) for row in query(connection, sql).to_pylist()}


def test_every_column_of_every_view_has_a_meaning(columns):
    """Where one fails: write the meaning into harness/report/views/columns.yaml."""
    assert len(columns) > 500
    assert [pair for pair in sorted(columns) if not meanings.meaning(*pair)] == []


def test_every_table_and_view_is_described(columns):
    """By the comment above a view, or a line of views/columns.yaml for a table."""
    names = {name for name, _ in columns}
    assert SCHEMAS.keys() <= names
    assert [name for name in sorted(names) if not meanings.what(name)] == []


def test_nothing_is_described_that_is_not_there(columns):
    written = meanings._written()
    own = {(view, column) for view in written.keys() - {"any", "like", "tables"} for column in written[view]}
    assert own <= columns
    assert written["any"].keys() <= {column for _, column in columns}
    assert written["tables"].keys() <= {name for name, _ in columns}
    assert {*written["like"], *written["like"].values()} <= {name for name, _ in columns}


def test_a_stored_column_has_the_meaning_of_its_file():
    for table, schema in SCHEMAS.items():
        for field in schema.schema:
            assert meanings.meaning(table, field.name) == field.metadata[b"meaning"].decode()
    assert meanings.meaning("evaluation", "prediction") == "class that the network gives"
    # The same name means another thing in another place.
    assert meanings.meaning("ranking", "accuracy").startswith("robust accuracy")
    assert meanings.meaning("table3", "fooled") == meanings.meaning("effectiveness", "fooled")
    assert meanings.meaning("evaluation", "nothing") is None


def test_types_and_comments_are_those_of_the_views(connection):
    table = meanings.columns(connection, "ranking")
    by_name = {name: (kind, text) for name, kind, text in table.rows}
    assert by_name["rank"][0] == "bigint" and by_name["attacks"][0] == "varchar[]"
    assert table.note.startswith("All networks by robust accuracy, the mean over the seeds")
    assert "is_ranked" in table.note
    described = query(connection, "describe ranking").to_pylist()
    assert [(name, kind) for name, kind, _ in table.rows] == [
        (row["column_name"], row["column_type"].lower()) for row in described
    ]


def test_the_command(store):
    code, said = call("describe", "--results", store.root)
    assert code == 0 and "table4" in said and "Table IV: networks on images" in said
    code, said = call("describe", "evaluation", "--format", "csv", "--results", store.root)
    rows = {row["column"]: row for row in csv.DictReader(io.StringIO(said))}
    assert code == 0 and rows["epsilon"]["type"] == "double" and rows["study"]["meaning"]
    assert "no table or view 'rankin'; did you mean 'ranking'?" in refused(
        "describe", "rankin", "--results", store.root
    )
