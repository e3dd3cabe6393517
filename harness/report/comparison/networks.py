"""Two networks of a study beside each other, test by test, as tables."""

from collections.abc import Iterator

import duckdb

from harness.errors import HarnessError, did_you_mean
from harness.report.database import query
from harness.report.recorded import Row
from harness.report.tables.numbers import exact, with_interval
from harness.report.tables.table import FAILS, Line, Table, as_table

_NOTE = (
    "a: {a}, b: {b}. Accuracy in per cent; images that one alone is right on; the difference in points "
    "[95 % interval, {interval}]; exact McNemar p, adjusted by Holm over the table; least: the smallest "
    "difference that so many {unit} can show. tied: the interval holds 0; (a), (b): better in this row, and "
    "no more than the chance of so many rows."
)
_ONE_SEED = " It speaks of these trainings: trained again, networks of the same settings may differ."
_SEVERAL = " Of {seeds} seeds; only a, only b and p count each image once, for who is right in more seeds."


def network(connection: duckdb.DuckDBPyConnection, words: str) -> Row:
    """The name and title of the network that has the one or the other; HarnessError where none has."""
    rows = query(connection, "select distinct name, title from networks order by name").to_pylist()
    for key in ("name", "title"):
        for row in rows:
            if row[key] == words:
                return dict(row)
    known = {row[key] for row in rows for key in ("name", "title")}
    raise HarnessError(f"no network '{words}' in this study{did_you_mean(words, known)}")


def compared(connection: duckdb.DuckDBPyConnection, a: Row, b: Row) -> list[Table]:
    """Over all seeds, and seed by seed where there are several; ``a`` and ``b`` as `network` gives them."""
    rows = query(connection, _sql(a, b)).to_pylist()
    if not rows:
        raise HarnessError(f"no test was measured on both '{a['title']}' and '{b['title']}'")
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    note = _one_alone(connection, a, b) + _failing(connection, a, b)
    together = [row for row in rows if row["seed"] is None]
    tables = [_table(together, a, b, f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}", note)]
    if len(seeds) > 1:
        own = ([row for row in rows if row["seed"] == seed] for seed in seeds)
        tables += [_table(mine, a, b, f"seed {mine[0]['seed']}", "") for mine in own]
    return tables


def as_rows(connection: duckdb.DuckDBPyConnection, a: Row, b: Row) -> list[Table]:
    """The same, every digit of it: for other programs to read."""
    return [as_table("compared", query(connection, _sql(a, b)), exact)]


def _sql(a: Row, b: Row) -> str:
    return f"from compared({_quoted(a['name'])}, {_quoted(b['name'])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _table(rows: list[Row], a: Row, b: Row, seeds: str, more: str) -> Table:
    several = max(row["seeds"] for row in rows)
    interval, unit = ("t over the seeds", "seeds") if several > 1 else ("paired over the images", "images")
    note = _NOTE.format(a=a["title"], b=b["title"], interval=interval, unit=unit)
    note += _SEVERAL.format(seeds=several) if several > 1 else _ONE_SEED
    header: Line = ("test", "a", "b", "only a", "only b", "a - b", "p", "p Holm", "least", "verdict")
    title = f"{a['title']} and {b['title']}, {seeds}"
    lines = [_line(row) for row in rows]
    counts = [str(row["images"]) for row in rows]
    if len(set(counts)) > 1:
        header = (*header, "images")
        lines = [(*line, count) for line, count in zip(lines, counts, strict=True)]
    else:
        title += f", {counts[0]} images"
    return Table("compared", title, note + more, header, lines)


def _line(row: Row) -> Line:
    return (
        row["test"],
        _accuracy(row["accuracy_a"], row["is_complete_a"]),
        _accuracy(row["accuracy_b"], row["is_complete_b"]),
        str(row["only_a"]),
        str(row["only_b"]),
        with_interval(row["difference"], row["low"], row["high"], "+"),
        f"{row['p']:.2g}",
        f"{row['p_holm']:.2g}",
        f"{row['least']:.1f}",
        row["verdict"],
    )


def _accuracy(value: float, is_complete: bool | None) -> str:
    """An upper bound where attacks are still to be made."""
    return f"{'<= ' if is_complete is False else ''}{value:.1f}"


def _one_alone(connection: duckdb.DuckDBPyConnection, a: Row, b: Row) -> str:
    """Which tests only one of the two has."""
    names = f"{_quoted(a['name'])}, {_quoted(b['name'])}"
    sql = (
        f"select test, any_value(name) as name from means where access <> 'bound' and name in ({names}) "
        "group by test having count(*) = 1 order by min(position)"
    )
    rows = query(connection, sql).to_pylist()
    texts = []
    for letter, each in (("a", a), ("b", b)):
        mine = [row["test"] for row in rows if row["name"] == each["name"]]
        texts += [f" Only {letter} has: {'; '.join(mine)}."] if mine else []
    return "".join(texts)


def _failing(connection: duckdb.DuckDBPyConnection, a: Row, b: Row) -> str:
    return "".join(_failures(connection, {a["name"]: "a", b["name"]: "b"}))


def _failures(connection: duckdb.DuckDBPyConnection, letters: dict[str, str]) -> Iterator[str]:
    """Why the numbers of one of the two are not to be believed."""
    for row in query(connection, "from verdicts where verdict = 'fail'").to_pylist():
        if row["name"] in letters:
            yield f" {FAILS} {letters[row['name']]}: {row['reason']}."
