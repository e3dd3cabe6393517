"""The command that says whether results can be trusted: files read back, cells made again."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import code_option, data_option, existing_store, results_option

if TYPE_CHECKING:
    from harness.results.store import Store


@click.command()
@click.option(
    "--repair", is_flag=True, help="Remove what is damaged: the next run of its study makes it anew."
)
@click.option(
    "--recompute",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Make N finished cells again and compare every value.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which cells --recompute draws.")
@click.option("--workers", type=int, default=None, help="As for `harness run`, for --recompute.")
@click.option("--study", default=None, help="For --recompute: only this study's cells.  [default: all]")
@code_option
@data_option
@results_option
def verify(
    repair: bool,
    recompute: int,
    seed: int,
    workers: int | None,
    study: str | None,
    data: Path | None,
    results: str,
) -> None:
    """Read every file back with checksums; exit code 1 when one is damaged.

    Also damaged: a cell that was made from weights or images which have since been made anew with other
    values.
    """
    store = existing_store(results)
    is_damaged = _read_back(store, repair)
    is_different = False
    if recompute:
        is_different = _make_again(store, recompute, seed, data, workers, study)
    if is_different or (is_damaged and not repair):
        sys.exit(1)


def _read_back(store: "Store", repair: bool) -> bool:
    """Read every file, and remove what is damaged if it is to be repaired; whether anything was."""
    from harness.results.verification import verify as read_back

    whole = 0
    damaged = []
    for path, reason in read_back(store):
        if reason:
            damaged.append(path)
            click.echo(f"{'removed' if repair else 'damaged'}: {reason}")
        elif path.suffix == ".parquet":
            whole += 1
    if repair:
        for path in damaged:
            store.remove(path)
    click.echo(f"{whole} cells whole, {len(damaged)} files damaged{_outcome(bool(damaged), repair)}")
    return bool(damaged)


def _outcome(is_damaged: bool, repair: bool) -> str:
    """What became of damaged files, or what to do about them."""
    if not is_damaged:
        return ""
    return " and removed: run their studies again" if repair else "; --repair removes them"


def _make_again(
    store: "Store", count: int, seed: int, data: Path | None, workers: int | None, study: str | None
) -> bool:
    """Make ``count`` finished cells again and say what differs; whether anything does."""
    from harness.pipeline.recompute import recompute

    is_different = False
    for cell in recompute(store, count, seed, data, workers, study):
        is_different |= bool(cell.differences)
        differences = "; ".join(cell.differences) or "identical"
        click.echo(f"made again: {cell.study}: {cell.title}: {differences}")
    return is_different
