"""The command that tries a study's networks, attacks and defenses from outside before they are relied on."""

import sys
from collections import Counter
from pathlib import Path

import click

from harness.cli.options import code_option, data_option, overrides_option

_COLOURS = {"ok": "green", "note": "yellow", "failed": "red"}


@click.command()
@click.argument("study")
@overrides_option
@code_option
@data_option
@click.option("--images", type=click.IntRange(2), default=8, show_default=True, help="Images it is tried on.")
@click.option(
    "--time-limit",
    "limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which one check is stopped, and has failed.",
)
def validate(study: str, overrides: tuple[str, ...], data: Path | None, images: int, limit_s: float) -> None:
    """Try what STUDY takes from outside: its networks, attacks and defenses that are not the harness's own.

    On a few images, in seconds, without training: a line for each thing that must hold. Exit code 1 when one
    does not. docs/validate.md says what is checked and why.
    """
    from harness.pipeline import validation
    from harness.study.reading import load

    chosen = load(study, overrides)
    names = validation.outsiders(chosen).names
    if not names:
        click.echo(f"nothing in '{chosen.name}' is from outside: there is nothing to check")
        return
    width = max(map(len, names))
    counts: Counter[str] = Counter()
    for result in validation.validate(chosen, data, images, limit_s):
        counts[result.status] += 1
        if result.status == "left out":
            continue
        status = click.style(f"{result.status:<6}", fg=_COLOURS[result.status])
        click.echo(f"{result.thing:<{width}}  {result.check:<13}  {status}  {result.said}")
    left_out = f", {counts['left out']} left out, which rest on those" if counts["left out"] else ""
    click.echo(f"\n{counts['ok']} ok, {counts['note']} to note, {counts['failed']} failed{left_out}")
    if counts["failed"]:
        sys.exit(1)
