"""A command that shows one image."""

from typing import Any

import click

from harness.cli.options import existing_store, format_option, latest, results_option, study_option


@click.command()
@click.argument("image", metavar="ID", type=int)
@format_option
@study_option
@results_option
def image(image: int, kind: Any, study: str | None, results: str) -> None:
    """Everything known of test image ID: its bound, and every network on it.

    ID is the image's position in its data set, `image_id` in the tables. `harness report` shows such images.
    """
    from harness.report.database import connect, query
    from harness.report.passport import passports, tables
    from harness.report.printing import ANY_WIDTH, render

    store = existing_store(results)
    with connect(store, study or latest(store)) as connection:
        (row,) = query(connection, "from studies").to_pylist()
        (passport,) = passports(connection, row, [image])
    click.echo(render(tables(passport), kind, ANY_WIDTH), nl=False)
