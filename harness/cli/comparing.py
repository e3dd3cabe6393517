"""The command that puts two things beside each other: two networks of a study, or two folders of results."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from harness.cli.options import existing_store, format_option, latest, results_option, study_option
from harness.errors import HarnessError

_MARK = "harness.json"  # lies in every folder of results


@click.command()
@click.argument("a")
@click.argument("b")
@format_option
@study_option
@results_option
def compare(a: str, b: str, kind: Any, study: str | None, results: str) -> None:
    """Two networks of a study, image by image; or two folders of results, cell by cell.

    A and B are networks, by their names or as tables call them: which images only one survives in each test,
    the difference with its interval, and whether it is more than chance.

    Or both are folders of results (or s3://BUCKET/PREFIX): which cells differ, why, and what that does to the
    accuracies. Exit code 1 where something differs.
    """
    kinds = [_is_results(each) for each in (a, b)]
    if all(kinds):
        sys.exit(_compare_results(a, b, kind, study))
    if any(kinds):
        which, other = (a, b) if kinds[0] else (b, a)
        raise HarnessError(
            f"expected two networks or two folders of results: '{which}' is one, '{other}' none"
        )
    _compare_networks(a, b, kind, study, results)


def _is_results(words: str) -> bool:
    """Whether it names results and no network: an address, or a folder that holds some."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", words)) or Path(words, _MARK).is_file()


def _compare_networks(a: str, b: str, kind: Any, study: str | None, results: str) -> None:
    from harness.report.comparison import networks as compared
    from harness.report.database import connect
    from harness.report.printing import render

    store = existing_store(results)
    with connect(store, study or latest(store)) as connection:
        networks = [_network(connection, words) for words in (a, b)]
        if networks[0] == networks[1]:
            raise HarnessError(f"'{a}' and '{b}' are the same network")
        make = compared.as_rows if kind == "csv" else compared.compared
        click.echo(render(make(connection, *networks), kind), nl=False)


def _network(connection: Any, words: str) -> Any:
    from harness.report.comparison import networks as compared

    if Path(words).is_dir():
        raise HarnessError(f"the folder '{words}' holds no results (there is no {_MARK} in it)")
    return compared.network(connection, words)


def _compare_results(a: str, b: str, kind: Any, study: str | None) -> int:
    """Print what differs; the exit code."""
    from harness.report.comparison import folder_tables
    from harness.report.comparison.folders import folders
    from harness.report.database import connect
    from harness.report.printing import render

    stores = existing_store(a), existing_store(b)
    found = folders(*stores, study)
    if not found.different and not found.one_sided and kind != "csv":
        click.echo(f"equal: {folder_tables.summary(found)}")
        return 0
    most = None if kind == "csv" else folder_tables.MOVED
    with connect(stores[0], study) as ours, connect(stores[1], study) as theirs:
        moved = folder_tables.moved(ours, theirs, found.studies, most)
    lay_out = folder_tables.cell_by_cell if kind == "csv" else folder_tables.tables
    text = render(lay_out(found, [moved]), kind)
    click.echo(text if kind == "csv" else f"{folder_tables.summary(found)}\n{text}", nl=False)
    return int(bool(found.different or found.one_sided))
