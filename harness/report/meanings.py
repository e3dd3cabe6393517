"""What the tables and views hold: a line for each, and the meaning of every column.

Stored columns carry theirs; those of views stand in views/columns.yaml, and what a view is in the comment
above it.
"""

import functools
import re
from collections.abc import Mapping
from importlib import resources

import duckdb
import yaml

from harness.errors import HarnessError, did_you_mean
from harness.report.database import CHAPTERS, query
from harness.report.tables.table import Line, Table
from harness.results.records import SCHEMAS

_VIEW = re.compile(r"((?:^--.*\n)*)^create view (\w+) as\n?([^;]*);", re.MULTILINE)
_SAME = re.compile(r"\s*from (\w+)\b[^,()]*", re.DOTALL)  # of a view that only picks rows of another


def overview(connection: duckdb.DuckDBPyConnection) -> Table:
    """All tables and views, a line each."""
    lines: list[Line] = [(name, _kind(name), what(name).split("\n")[0]) for name in _names(connection)]
    note = "harness describe NAME gives its columns; harness sql 'from NAME' its rows."
    return Table("describe", "Tables and views", note, ("name", "kind", "what it holds"), lines)


def columns(connection: duckdb.DuckDBPyConnection, name: str) -> Table:
    """The columns of a table or view; HarnessError for a name that is none."""
    known = _names(connection)
    if name not in known:
        raise HarnessError(f"no table or view '{name}'{did_you_mean(name, known)}")
    rows = query(
        connection,
        "select column_name, data_type from information_schema.columns "
        f"where table_name = '{name}' order by ordinal_position",
    ).to_pylist()
    lines: list[Line] = [
        (row["column_name"], row["data_type"].lower(), meaning(name, row["column_name"]) or "")
        for row in rows
    ]
    return Table(name, f"{name}, a {_kind(name)}", what(name), ("column", "type", "meaning"), lines)


def what(name: str) -> str:
    """What a table or view holds, in words; the first line says it shortest."""
    views, tables = _views(), _written()["tables"]
    if name in tables:
        return tables[name]
    comment, _ = views.get(name, ("", None))
    return comment


def meaning(name: str, column: str) -> str | None:
    """Of a column of a table or view; None for one that nobody has written down."""
    written = _written()
    if name in SCHEMAS and column in SCHEMAS[name].schema.names:
        return _stored(name, column)
    for each in (name, *_same_as(name)):
        if column in written.get(each, {}):
            return written[each][column]
    if column in written["any"]:
        return written["any"][column]
    meanings = {_stored(table, column) for table in SCHEMAS if column in SCHEMAS[table].schema.names}
    return meanings.pop() if len(meanings) == 1 else None


def _names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    names: list[str] = query(connection, "show tables")["name"].to_pylist()
    return sorted(names)


def _kind(name: str) -> str:
    return "view" if name in _views() else "table"


def _stored(table: str, column: str) -> str:
    return str(SCHEMAS[table].schema.field(column).metadata[b"meaning"].decode())


def _same_as(name: str) -> list[str]:
    """Views whose columns a view has unchanged, or that are said to be like it."""
    _, picked = _views().get(name, ("", None))
    source = picked or _written()["like"].get(name)
    return [source, *_same_as(source)] if source else []


@functools.cache
def _written() -> Mapping[str, Mapping[str, str]]:
    """Table or view -> column -> meaning; `any` of all, `like` another view, `tables` what each is."""
    content = yaml.safe_load((resources.files("harness.report") / "views" / "columns.yaml").read_text())
    return {**content["of"], **{part: content[part] for part in ("any", "like", "tables")}}


@functools.cache
def _views() -> Mapping[str, tuple[str, str | None]]:
    """View -> the words of its comment, and the view whose rows it picks."""
    found = {}
    for chapter in CHAPTERS:
        text = (resources.files("harness.report") / "views" / f"{chapter}.sql").read_text()
        for comment, name, body in _VIEW.findall(text):
            same = _SAME.fullmatch(body)
            found[name] = (_words(comment), same[1] if same else None)
    return found


def _words(comment: str) -> str:
    """The first sentence, then the rest as it stands."""
    lines = [line.removeprefix("--").removeprefix(" ") for line in comment.splitlines()]
    paragraph = []
    while lines and not lines[0].startswith("  "):
        paragraph.append(lines.pop(0))
    first, *rest = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(paragraph).strip(), maxsplit=1)
    return "\n".join([first, *rest, *lines]).strip()
