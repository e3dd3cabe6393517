"""The command that says whether results can be trusted: files read back, cells made again."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import (
    RunOptions,
    code_option,
    data_option,
    existing_store,
    results_option,
    run_options,
)

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


@click.command()
@run_options
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Finished cells to make again with the code as it is now; for each of your functions at least one.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which cells are drawn.")
def rekey(options: RunOptions, sample: int, seed: int) -> None:
    """Keep STUDY's cells through an edit of your code that changes no number.

    Makes a sample of them again; where all values are equal, the cells get the keys of the edited code and
    nothing is made anew. `harness tables` says so ever after. Exit code 1 where a value differs.
    """
    from harness.pipeline.rekey import rekey as give_new_keys
    from harness.results import locking
    from harness.study.reading import load

    study = load(options.study, options.changes)
    store = existing_store(options.results)
    with locking.only_driver(store.local_root, study.name, click.echo):
        found = give_new_keys(study, store, options.data, sample, seed)
    for cell in found.sample:
        click.echo(f"made again: {cell.title}: {'; '.join(cell.differences) or 'identical'}")
    if not found.cells:
        click.echo("the code changed what it makes: `harness run` makes its cells anew")
        sys.exit(1)
    click.echo(f"{found.cells} cells have new keys")


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
