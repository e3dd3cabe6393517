"""The command line: thin words over the pipeline, the report and the tracker."""

import functools
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from harness import STEPS
from harness.errors import Failed, HarnessError

DEFAULT_RESULTS = "results"
_SHOWN_FAILURES = 20


class _Group(click.Group):
    """Shows a HarnessError as one message, exit code 2, nothing lost; lists commands in the order of work."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except HarnessError as error:
            Console(stderr=True, soft_wrap=True).print(
                f"[bold red]error:[/] {_plain(str(error))}", highlight=False
            )
            context.exit(2)
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped: what is finished stays; the same command goes on from there")
            context.exit(128 + (_caught[-1] if _caught else signal.SIGINT))


_caught: list[int] = []  # signals


def _stop(number: int, frame: Any) -> None:
    """End as Ctrl-C does: of what a handler can raise, Ray's calls hand only that on as it is."""
    _caught.append(number)
    raise KeyboardInterrupt


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")


_results = click.option(
    "--results", default=DEFAULT_RESULTS, envvar="HARNESS_RESULTS", show_default=True, show_envvar=True,
    help="Folder of the results, or s3://BUCKET/PREFIX.",
)  # fmt: skip
_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change a setting, e.g. defense.k=[1,2]. May be repeated.",
)
_data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    envvar="HARNESS_DATA",
    show_envvar=True,
    help="Folder of the data sets.",
)
_tracking = click.option(
    "--tracking-uri", "uri", default=None, envvar="HARNESS_TRACKING_URI", show_envvar=True, metavar="URI",
    help="MLflow server (http://HOST:PORT) or sqlite:///FILE that gets the runs.  [default: mlflow.db beside the results]",
)  # fmt: skip
_format = click.option(
    "--format", "kind", type=click.Choice(["rich", "md", "csv"]), default="rich", show_default=True
)
_study_option = click.option(
    "--study", default=None, help="Only this study's results.  [default: the one run last]"
)


def _study_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """STUDY and the options of whatever runs steps."""

    @click.argument("study")
    @_overrides
    @_data
    @click.option(
        "--workers", type=int, default=None, help="Shards at once (compute.workers); 0 runs without Ray."
    )
    @_results
    @_tracking
    @functools.wraps(function)
    def wrapped(**arguments: Any) -> Any:
        return function(**arguments)

    return wrapped


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="harness")
def main() -> None:
    """Visual imperceptible bounds: compute them, attack, defend and compare, on one machine or a cluster.

    Start with `harness run quick`.
    """


# --- running ----------------------------------------------------------------------------------------


@main.command()
@_study_options
def run(
    study: str,
    overrides: tuple[str, ...],
    data: Path | None,
    workers: int | None,
    results: str,
    uri: str | None,
) -> None:
    """Run all steps of STUDY (a preset or a YAML file), then print its tables.

    What is finished is not done again: run the same command after any interruption. Exit code 1 when a cell failed
    (the others are made, the tables show a hole), 2 for what you can mend before anything runs.
    """
    _run(study, overrides, data, workers, results, uri, tuple(step.name for step in STEPS), "rich")


def _step_command(name: str, summary: str, paper: str) -> None:
    @main.command(
        name, help=f"One step of STUDY alone: {summary} (paper: {paper}).", short_help=f"One step: {summary}."
    )
    @_study_options
    def step(
        study: str,
        overrides: tuple[str, ...],
        data: Path | None,
        workers: int | None,
        results: str,
        uri: str | None,
    ) -> None:
        _run(study, overrides, data, workers, results, uri, (name,), None)


for _step in STEPS:
    _step_command(_step.name, _step.summary, _step.paper)


def _run(
    name: str,
    overrides: tuple[str, ...],
    data: Path | None,
    workers: int | None,
    results: str,
    uri: str | None,
    steps: tuple[str, ...],
    shown: str | None,
) -> None:
    from harness import locking, pipeline, spec, tracking
    from harness.progress import Display
    from harness.storage import full_disk_told
    from harness.store import Store

    if workers is not None:
        overrides = (*overrides, f"compute.workers={workers}")
    study = spec.load(name, overrides)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # as batch systems send it
    console = Console(file=sys.stdout)
    store = Store(results)
    tracking.destination(store, uri)  # a mistake in it is told before any work
    store.open()

    def waiting(words: str) -> None:
        console.print(words, highlight=False, markup=False, soft_wrap=True)

    with (
        full_disk_told(results),
        locking.only_driver(store.local_root, study.name, waiting),
        Display(console) as display,
    ):
        locking.remove_abandoned(store.local_root)
        prepared = pipeline.prepare(study, store, data, display)
        made = pipeline.run_steps(prepared, steps)
        tracked, away = _track(store, study.name, results, uri, display)
    console.print(
        f"{made} cells made, {tracked} MLflow runs written; results in '{results}'", highlight=False
    )
    if away:
        console.print(away, highlight=False, markup=False, soft_wrap=True)
    if shown:
        _print_tables(store, study.name, (), shown)
        where = f" --results {shlex.quote(results)}" if results != DEFAULT_RESULTS else ""
        console.print(
            "\nWhat to look at next:\n"
            f"  harness tables{where} --format md        these tables again, as Markdown or CSV\n"
            f"  harness ui{where}                        MLflow: compare the networks, links are printed\n"
            f"  harness sql{where} \"from black_box\"      any question to the Parquet tables\n"
            f"  harness verify{where}                    read every file back with checksums",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    if prepared.failed:
        _tell_failures(prepared.failed)
        sys.exit(1)


def _tell_failures(failed: Mapping[str, Failed]) -> None:
    """What failed by itself, a line each, and how much waits for it."""
    causes = [f"  {title}: {failure.reason}" for title, failure in failed.items() if not failure.waits]
    shown = causes[:_SHOWN_FAILURES] + (
        [f"  ... and {len(causes) - _SHOWN_FAILURES} more"] if len(causes) > _SHOWN_FAILURES else []
    )
    waiting = len(failed) - len(causes)
    head = (
        f"{len(causes)} cell{'s' * (len(causes) > 1)} failed"
        + (f" and {waiting} wait for them" if waiting else "")
        + "; the same command tries again:"
    )
    Console(stderr=True, soft_wrap=True).print(
        "\n".join([f"[bold red]{head}[/]", *map(_plain, shown)]), highlight=False
    )


def _track(store: Any, study: str, results: str, uri: str | None, display: Any) -> tuple[int, str]:
    """Sync the study: the runs written, and words on what to type where MLflow is away, which is no failure of the study."""
    from harness import tracking

    def progress(done: int, total: int) -> None:
        if done == 0:
            display.begin("mlflow", total, "runs", 0)
        else:
            display.advance("mlflow")
        if done == total:
            display.end("mlflow")

    try:
        return tracking.sync(store, study, uri, progress), ""
    except tracking.TrackingError as error:
        context = click.get_current_context()
        typed = uri and context.get_parameter_source("uri") is not click.core.ParameterSource.ENVIRONMENT
        options = (f" --results {shlex.quote(results)}" if results != DEFAULT_RESULTS else "") + (
            f" --tracking-uri {tracking.destination(store, uri)}" if typed else ""
        )
        return 0, f"{error}. No result is lost; later, send the runs with: harness track {study}{options}"


@main.command()
@click.argument("study", required=False)
@_overrides
@_data
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Cores or GPUs side by side.  [default: this machine's]",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Assume this speed of a worker, measure nothing.",
)
@click.option(
    "--images",
    type=click.IntRange(2),
    default=1_281_167,
    show_default=True,
    help="Without STUDY: images of the bound.",
)
@click.option(
    "--values",
    type=click.IntRange(1),
    default=3 * 64 * 64,
    show_default=True,
    help="Without STUDY: values of an image.",
)
def plan(
    study: str | None,
    overrides: tuple[str, ...],
    data: Path | None,
    workers: int | None,
    tflops: float | None,
    images: int,
    values: int,
) -> None:
    """What STUDY will cost before it runs: cells, hours, disk, memory.

    Measures for some seconds how fast this machine trains and attacks the study's network. Without STUDY: what the bound
    of a large data set costs on machines of several kinds (ImageNet-1k at 64 x 64 unless told otherwise).
    """
    from harness import costs, growth, report, spec
    from harness.plan import plan as planned

    model = growth.BoundModel.fit(growth.packaged())
    if study is None:
        lines: list[tuple[str, ...]] = [
            (machine, report.duration(seconds))
            for machine, seconds in growth.elsewhere(model, images, values)
        ]
        table = report.Table(
            "bound",
            f"The bound of {images:,} images of {values:,} values",
            f"Model: {model.describe()}.",
            ("on", "time"),
            lines,
        )
        click.echo(report.render([table], "rich"), nl=False)
        return
    chosen = spec.load(study, overrides)
    extent = costs.extent(chosen, data)
    rates = (
        costs.measured_rates(chosen, extent)
        if tflops is None
        else costs.assumed_rates(chosen, extent, tflops)
    )
    prices = costs.price(planned(chosen, "", None), extent, rates, model)
    click.echo(
        report.render([costs.table(prices, workers or costs.workers_here(), rates.source)], "rich"), nl=False
    )
    shared, each = costs.memory(chosen, extent)
    click.echo(
        f"Memory: images {report.size(shared)} a machine, a training {report.size(each)} a worker beside its activations."
    )


@main.command()
@click.argument("parts", nargs=-1)
@_data
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Turns of every contender that count.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=None,
    help="CPU threads, or workers, of every contender.  [default: all cores]",
)
@click.option("--again", is_flag=True, help="Measure also what is measured already.")
@click.option(
    "--smoke",
    is_flag=True,
    help="Everything at the smallest size, on digits: a test that it runs, no measurement.",
)
@_format
@_results
def benchmark(
    parts: tuple[str, ...],
    data: Path | None,
    repeats: int,
    threads: int | None,
    again: bool,
    smoke: bool,
    kind: Any,
    results: str,
) -> None:
    """Measure the bound, the attacks and the trainings against what you would pick instead.

    PARTS: bound, growth, attacks, trainings, grid, ddp, gpu; all unless some are named. Needs MNIST or CIFAR-10 in the data folder.
    Writes the table `benchmark` and prints it; what is measured on this machine with these versions is not measured again.
    """
    from harness import benchmark as measuring
    from harness import networks, report, views
    from harness.store import Store

    on = networks.device()
    sizes = measuring.SMOKE if smoke else measuring.GPU if on.type == "cuda" else measuring.FULL
    setting = measuring.Setting(data, sizes, threads or os.cpu_count() or 1, on)
    store = Store(results)
    measuring.run(
        store, setting, parts, repeats, again, lambda case, name: click.echo(f"{case}: {name}", err=True)
    )
    report.show_benchmark(views.connect(store), kind)


# --- looking ----------------------------------------------------------------------------------------


@main.command()
@click.argument("names", nargs=-1)
@_format
@_study_option
@_results
def tables(names: tuple[str, ...], kind: str, study: str | None, results: str) -> None:
    """The paper's tables: its number beside ours and its interval.

    NAMES picks some, e.g. table2, or any view of `harness sql`.
    """
    _print_tables(_store(results), study, names, kind)


def _print_tables(store: Any, study: str | None, names: tuple[str, ...], kind: Any) -> None:
    from harness import report, views

    report.show(views.connect(store, study or _latest(store)), names, kind)


def _latest(store: Any) -> str:
    studies = list(store.studies())
    if not studies:
        raise HarnessError(f"'{store.folder}' holds no study: run one with `harness run quick`")
    return str(studies[-1])


@main.command()
@click.argument("query")
@_format
@click.option("--study", default=None, help="Only this study's results.  [default: all]")
@_results
def sql(query: str, kind: Any, study: str | None, results: str) -> None:
    """Ask the Parquet tables in SQL.

    Tables: bound, attack, evaluation, training, benchmark. Views: table2 to table7, black_box, white_box, effectiveness,
    magnitude, class_distance, accuracies, missing, speed. `harness sql "show tables"` lists them all.
    """
    from harness import report, views

    report.show_query(views.connect(_store(results), study), query, kind)


@main.command()
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
@_data
@_results
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

    Also damaged: a cell that was made from weights or images which have since been made anew with other values.
    """
    from harness import audit

    store = _store(results)
    damaged = []
    cells = 0
    for path, reason in audit.verify(store):
        cells += path.suffix == ".parquet"
        if reason:
            damaged.append(path)
            click.echo(f"{'removed' if repair else 'damaged'}: {reason}")
    if repair:
        for path in damaged:
            store.remove(path)
    click.echo(
        f"{cells - sum(path.suffix == '.parquet' for path in damaged)} cells whole, {len(damaged)} files damaged",
        nl=False,
    )
    click.echo(
        " and removed: run their studies again"
        if repair and damaged
        else ""
        if not damaged
        else "; --repair removes them"
    )
    different = 0
    for finding in audit.recompute(store, recompute, seed, data, workers, study) if recompute else ():
        different += bool(finding.differences)
        click.echo(
            f"made again: {finding.study}: {finding.title}: {'; '.join(finding.differences) or 'identical'}"
        )
    sys.exit(1 if different or (damaged and not repair) else 0)


@main.command()
@click.argument("study", required=False)
@_results
@_tracking
def track(study: str | None, results: str, uri: str | None) -> None:
    """Send to MLflow what it lacks of STUDY, or of all studies.

    Runs are made from the Parquet files: a database that was deleted or a server that is empty gets them all.
    """
    from harness import tracking

    store = _store(results)
    for name in store.studies() if study is None else [study]:
        written = tracking.sync(store, name, uri)
        click.echo(f"{name}: {written} runs written to {tracking.destination(store, uri)}")


@main.command()
@click.option("--port", type=int, default=5000, show_default=True)
@_results
@_tracking
def ui(port: int, results: str, uri: str | None) -> None:
    """Start MLflow's UI on this machine alone, and print links.

    It listens on 127.0.0.1. The links open the runs, the charts and the comparison of each study. Of a server they are
    printed and nothing is started.
    """
    from harness import tracking
    from harness.ui import serve

    store = _store(results)
    for name in store.studies():
        tracking.sync(store, name, uri)

    def show(found: dict[str, dict[str, str]]) -> None:
        for name, links in found.items():
            click.echo(f"{name}\n" + "\n".join(f"  {what:<8} {link}" for what, link in links.items()))
        if not at_server:
            click.echo("Ctrl-C ends it.")

    at_server = tracking.destination(store, uri).is_server
    if not at_server:
        click.echo("starting MLflow ...")
    serve(store, port=port, on_ready=show, uri=uri)


@main.command()
@click.argument("study")
@_overrides
def show(study: str, overrides: tuple[str, ...]) -> None:
    """Every setting of STUDY, defaults filled in, as YAML."""
    import yaml

    from harness import spec

    click.echo(yaml.safe_dump(spec.load(study, overrides).model_dump(mode="json"), sort_keys=False), nl=False)


@main.command()
def studies() -> None:
    """The presets."""
    from harness import spec

    for name, path in spec.presets().items():
        first = path.read_text().splitlines()[0].removeprefix("# ")
        click.echo(f"{name:<14} {first}")


def _store(results: str) -> Any:
    from harness.store import Store

    store = Store(results)
    store.check_version()
    return store


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
