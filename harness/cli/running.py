"""Commands that make cells and send them to MLflow: a whole study, each step of one, the runs alone."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from harness.cli.ending import Ending
from harness.cli.group import complain, end_on_sigterm, plain
from harness.cli.options import (
    RunOptions,
    existing_store,
    results_option,
    run_options,
    tracking_option,
    typed_results,
)
from harness.errors import Failed
from harness.pipeline.steps import ALL_STEPS, STEPS

if TYPE_CHECKING:
    from harness.cli.progress import Display
    from harness.pipeline.finished import Finished
    from harness.report.tables.table import Table
    from harness.results.store import Store

_SHOWN_FAILURES = 20


@click.command()
@run_options
def run(options: RunOptions) -> None:
    """Run all steps of STUDY (a preset or a YAML file), then print its tables.

    What is finished is not done again: run the same command after any interruption. Exit code 1 when a cell
    failed (the others are made, the tables show a hole), 2 for what you can mend before anything runs.
    """
    from harness.report.printing import render

    outcome = _run(options, ALL_STEPS, with_tables=True)
    print(render(outcome.tables(), "rich"), end="")
    _say(f"\n{_what_next(options.results)}")
    _exit_if_any(outcome.failed)


def _step_command(name: str, summary: str, paper: str) -> click.Command:
    @click.command(
        name, help=f"One step of STUDY alone: {summary} (paper: {paper}).", short_help=f"One step: {summary}."
    )
    @run_options
    def step(options: RunOptions) -> None:
        _exit_if_any(_run(options, (name,)).failed)

    return step


STEP_COMMANDS = tuple(_step_command(step.name, step.summary, step.paper) for step in STEPS)


@dataclass(frozen=True)
class _Outcome:
    """A study whose steps were run: its cells that failed, by title, and what lays out its tables."""

    failed: Mapping[str, Failed]
    tables: "Callable[[], list[Table]]"


def _run(options: RunOptions, steps: tuple[str, ...], with_tables: bool = False) -> _Outcome:
    """Make the missing cells of these steps and send the study to MLflow, under the study's lock.

    ``with_tables``: they will be asked for. Raises HarnessError for a mistake in what was given, before any
    work.
    """
    from harness.cluster import forkserver
    from harness.pipeline import finished
    from harness.results.store import Store

    store = Store(options.results)
    digest = finished.given(options.study, options.changes, options.data)
    done = finished.find(store, digest, steps)
    if done is not None:
        return _run_nothing(options, store, done)
    with forkserver.ahead(options.workers):
        return _run_missing(options, store, digest, steps, with_tables)


def _run_missing(
    options: RunOptions, store: "Store", digest: str, steps: tuple[str, ...], with_tables: bool
) -> _Outcome:
    """Plan the study and make what it lacks."""
    from harness.pipeline import finished
    from harness.pipeline.run import prepare, run_steps
    from harness.results import locking
    from harness.study.reading import load
    from harness.tracking.sync import get_ready

    study = load(options.study, options.changes)
    planned_from = finished.files(study, options.data)
    ending = Ending(store, study.name, with_tables)
    with _at_work(options, store, study.name) as display, ending:
        locking.remove_abandoned(store.local_root)
        prepared = prepare(study, store, options.data, display, steps)
        prepared.meanwhile = partial(get_ready, store, options.uri)
        made = run_steps(prepared, steps, ending.begin)
        if digest == finished.given(options.study, options.changes, options.data):
            finished.leave(prepared, digest, planned_from)
        sent, away = _send(store, study.name, options, display, ending)
    _say_made(made, sent, away, options)
    return _Outcome(prepared.failed, ending.tables)


def _run_nothing(options: RunOptions, store: "Store", done: "Finished") -> _Outcome:
    """All cells are there: send what MLflow lacks."""
    from harness.results import locking

    ending = Ending(store, done.study, with_tables=False)
    with _at_work(options, store, done.study) as display:
        locking.remove_abandoned(store.local_root)
        for step, cells in done.cells.items():
            display.begin(step, 0, "cells", cells)
            display.end(step)
        sent, away = _send(store, done.study, options, display, ending)
    _say_made(0, sent, away, options)
    return _Outcome({}, ending.tables)


@contextmanager
def _at_work(options: RunOptions, store: "Store", study: str) -> Iterator["Display"]:
    """The results open, the study's lock taken, the progress shown."""
    from rich.console import Console

    from harness.cli.progress import Display
    from harness.results import locking
    from harness.results.storage import explained_full_disk
    from harness.tracking.destination import destination

    end_on_sigterm()
    destination(store, options.uri)
    store.open()
    with (
        explained_full_disk(options.results),
        locking.only_driver(store.local_root, study, _say),
        Display(Console(file=sys.stdout)) as display,
    ):
        yield display


def _say_made(made: int, sent: int, away: str, options: RunOptions) -> None:
    _say(f"{made} cells made, {sent} MLflow runs written; results in '{options.results}'")
    if away:
        _say(away)


def _say(words: str) -> None:
    """Print words as they are: no line of them is broken, nothing is markup."""
    from rich.console import Console

    Console(file=sys.stdout).print(words, highlight=False, markup=False, soft_wrap=True)


def _what_next(results: str) -> str:
    where = typed_results(results)
    return (
        "What to look at next:\n"
        f"  harness report{where}                    one HTML file: ranking, figures, checks\n"
        f"  harness tables{where} --format md        these tables again, as Markdown or CSV\n"
        f"  harness ui{where}                        MLflow: compare the networks, links are printed\n"
        f'  harness sql{where} "from black_box"      any question to the Parquet tables\n'
        f"  harness verify{where}                    read every file back with checksums"
    )


def _exit_if_any(failed: Mapping[str, Failed]) -> None:
    """Say what failed, and end with exit code 1, where something did."""
    if failed:
        head, *lines = _failures(failed)
        complain("\n".join([f"[bold red]{head}[/]", *map(plain, lines)]))
        sys.exit(1)


def _failures(failed: Mapping[str, Failed]) -> list[str]:
    """How much failed and how much waits for it; then what failed by itself, a line each."""
    causes = [f"  {title}: {failure.reason}" for title, failure in failed.items() if not failure.waits]
    waiting = len(failed) - len(causes)
    plural = "s" if len(causes) > 1 else ""
    wait = f" and {waiting} wait for them" if waiting else ""
    lines = [f"{len(causes)} cell{plural} failed{wait}; the same command tries again:"]
    lines += causes[:_SHOWN_FAILURES]
    if len(causes) > _SHOWN_FAILURES:
        lines.append(f"  ... and {len(causes) - _SHOWN_FAILURES} more")
    return lines


# --- MLflow -----------------------------------------------------------------------------------------


@click.command()
@click.argument("study", required=False)
@results_option
@tracking_option
def track(study: str | None, results: str, uri: str | None) -> None:
    """Send to MLflow what it lacks of STUDY, or of all studies.

    Runs are made from the Parquet files: a database that was deleted or a server that is empty gets them all.
    """
    from harness.tracking.destination import destination
    from harness.tracking.sync import sync

    store = existing_store(results)
    for name in store.studies() if study is None else [study]:
        written = sync(store, name, uri)
        click.echo(f"{name}: {written} runs written to {destination(store, uri)}")


def _send(
    store: "Store", study: str, options: RunOptions, display: "Display", ending: Ending
) -> tuple[int, str]:
    """The runs written; where MLflow is away, which is no failure of the study, what to type later."""
    from harness.tracking.destination import TrackingError, destination
    from harness.tracking.sync import sync

    try:
        return sync(store, study, options.uri, _progress(display), ending.drawn), ""
    except TrackingError as error:
        again = f"harness track {study}{typed_results(options.results)}"
        if options.uri and not _from_environment("uri"):
            again += f" --tracking-uri {destination(store, options.uri)}"
        return 0, f"{error}. No result is lost; later, send the runs with: {again}"


def _from_environment(option: str) -> bool:
    """Whether an option of this command was not typed: the next command has it from there, too."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.ENVIRONMENT


def _progress(display: "Display") -> Callable[[int, int], None]:
    """A bar for the runs: called with those written and those to write, from 0 on."""

    def show(done: int, total: int) -> None:
        if done == 0:
            display.begin("mlflow", total, "runs", 0)
        else:
            display.advance("mlflow")
        if done == total:
            display.end("mlflow")

    return show
