"""Commands that show what is there and compute nothing: tables, queries, MLflow's page, the studies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from harness.cli.options import (
    code_option,
    existing_store,
    format_option,
    latest,
    overrides_option,
    results_option,
    study_option,
    tracking_option,
)


@click.command()
@click.argument("names", nargs=-1)
@format_option
@study_option
@results_option
def tables(names: tuple[str, ...], kind: Any, study: str | None, results: str) -> None:
    """The paper's tables: its number beside ours and its interval.

    NAMES picks some, e.g. table2, or any view of `harness sql`.
    """
    from harness.report.database import connect
    from harness.report.printing import show

    store = existing_store(results)
    with connect(store, study or latest(store)) as connection:
        show(connection, names, kind)


@click.command()
@click.argument("query")
@format_option
@click.option("--study", default=None, help="Only this study's results.  [default: all]")
@results_option
def sql(query: str, kind: Any, study: str | None, results: str) -> None:
    """Ask the Parquet tables in SQL.

    Tables: bound, attack, evaluation, training, "check", certified, benchmark. Views: ranking, robust,
    credit, bound_test, verdicts, fragility, certified_accuracy, table2 to table7, black_box, white_box,
    accuracies, over_seeds, missing and more. `harness describe` lists them all.
    """
    from harness.report.database import connect
    from harness.report.printing import show_query

    with connect(existing_store(results), study) as connection:
        show_query(connection, query, kind)


@click.command()
@click.argument("name", required=False)
@format_option
@results_option
def describe(name: str | None, kind: Any, results: str) -> None:
    """The columns of a table or view: type and meaning. Without NAME all tables and views, a line each."""
    from harness.report import meanings
    from harness.report.database import connect
    from harness.report.printing import render

    with connect(existing_store(results)) as connection:
        shown = meanings.columns(connection, name) if name else meanings.overview(connection)
    click.echo(render([shown], kind), nl=False)


@click.command()
@click.argument("studies", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The file.",
)
@click.option(
    "--gallery/--no-gallery", default=True, help="With pictures of attacked images.  [default: with]"
)
@results_option
def report(studies: tuple[str, ...], out: Path, gallery: bool, results: str) -> None:
    """One HTML file of STUDIES, all unless some are named: tables, figures, verdicts.

    It needs no network, sends nothing, and is made of the Parquet files alone.
    """
    from harness.report.database import connect
    from harness.report.page import across, page, shown
    from harness.report.page.gallery import BYTES
    from harness.results.cells import own_version

    store = existing_store(results)
    records = store.studies()
    pages, each = [], BYTES // max(1, len(studies or records))
    for name in studies or records:
        with connect(store, name) as connection:
            pages.append(shown(connection, records[name]["study"], store if gallery else None, each))
    if len(pages) > 1:
        with connect(store) as connection:
            pages[-1].sections.extend(across(connection))
    out.write_text(page(pages, own_version()), encoding="utf-8")
    click.echo(f"{out}: {', '.join(studies or records)}, {out.stat().st_size / 1000:,.0f} kB")


@click.command()
@click.option("--port", type=int, default=5000, show_default=True)
@results_option
@tracking_option
def ui(port: int, results: str, uri: str | None) -> None:
    """Start MLflow's UI on this machine alone, and print links.

    It listens on 127.0.0.1. The links open the report, the runs, the charts and the comparison of each study.
    Of a server they are printed and nothing is started.
    """
    from harness.tracking.destination import destination
    from harness.tracking.sync import sync
    from harness.tracking.ui import serve

    store = existing_store(results)
    for name in store.studies():
        sync(store, name, uri)
    is_started = not destination(store, uri).is_server

    def on_ready(studies: Mapping[str, Mapping[str, str]]) -> None:
        for name, links in studies.items():
            click.echo("\n".join([name, *(f"  {what:<8} {link}" for what, link in links.items())]))
        if is_started:
            click.echo("Ctrl-C ends it.")

    if is_started:
        click.echo("starting MLflow ...")
    serve(store, port=port, on_ready=on_ready, uri=uri)


@click.command()
@click.argument("study")
@overrides_option
@code_option
def show(study: str, overrides: tuple[str, ...]) -> None:
    """Every setting of STUDY, defaults filled in, as YAML."""
    import yaml

    from harness.study.reading import load

    settings = load(study, overrides).model_dump(mode="json")
    click.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)


@click.command()
def studies() -> None:
    """The presets."""
    from harness.study.files import presets

    for name, path in presets().items():
        first = path.read_text().splitlines()[0].removeprefix("# ")
        click.echo(f"{name:<18} {first}")
