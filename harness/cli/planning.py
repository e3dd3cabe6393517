"""Commands on time: what a study will cost, and how fast this machine is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import code_option, data_option, format_option, overrides_option, results_option

if TYPE_CHECKING:
    from harness.report.tables.table import Table
    from harness.study.costs import Price
    from harness.study.rates import Rates, StartUp


@click.command()
@click.argument("study", required=False)
@overrides_option
@code_option
@data_option
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
    "--gpu",
    type=str,
    default="H100",
    show_default=True,
    help="Reckon for 1, 8 and 64 of these as well; 'none': don't.",
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
    gpu: str,
    images: int,
    values: int,
) -> None:
    """What STUDY will cost before it runs: cells, hours, disk, memory.

    Measures for some seconds how fast this machine trains and attacks the study's network, and counts what
    that would ask of GPUs. Without STUDY: what the bound of a large data set costs on machines of several
    kinds (ImageNet-1k at 64 x 64 unless told otherwise).
    """
    if study is None:
        _price_bound(images, values)
    else:
        _price_study(study, overrides, data, workers, tflops, gpu)


def _price_bound(images: int, values: int) -> None:
    """Print what the bound of so many images costs on machines of several kinds."""
    from harness.neighbours import growth
    from harness.report.printing import render
    from harness.report.tables.numbers import duration
    from harness.report.tables.table import Table

    model = growth.BoundModel.fit(growth.packaged())
    machines = growth.elsewhere(model, images, values)
    forecast = Table(
        "bound",
        f"The bound of {images:,} images of {values:,} values",
        f"Model: {model.describe()}.",
        ("on", "time"),
        [(machine, duration(seconds)) for machine, seconds in machines],
    )
    click.echo(render([forecast], "rich"), nl=False)


def _price_study(
    study: str,
    overrides: tuple[str, ...],
    data: Path | None,
    workers: int | None,
    tflops: float | None,
    gpu: str,
) -> None:
    """Print what a study costs, step by step, here and on GPUs.

    ``tflops`` is a worker's assumed speed, None measures it.
    """
    from harness.neighbours import growth
    from harness.pipeline.run import price
    from harness.report.printing import render
    from harness.report.tables.numbers import size
    from harness.study import costs, rates
    from harness.study.plan import plan as planned
    from harness.study.reading import load

    if gpu != "none" and gpu not in rates.GPUS:
        raise click.BadParameter(f"expected one of {', '.join(rates.GPUS)} or none, got {gpu!r}")
    chosen = load(study, overrides)
    extent = costs.extent(chosen, data)
    model = growth.BoundModel.fit(growth.packaged())
    plan = planned(chosen, "", None)

    def priced(of_a_worker: "Rates") -> list["Price"]:
        return price(costs.Quote(plan, extent, of_a_worker, model))

    here = rates.measured(chosen, extent) if tflops is None else rates.assumed(chosen, extent, tflops)
    tables = [table(priced(here), workers or costs.workers_here(), here)]
    if gpu != "none":
        there = rates.on_gpu(chosen, extent, gpu)
        tables.append(on_gpus(priced(there), gpu, there))
    click.echo(render(tables, "rich"), nl=False)
    shared, each = costs.memory(chosen, extent)
    click.echo(
        f"Memory: images {size(shared)} a machine, a training {size(each)} a worker beside its activations."
    )


def table(prices: Sequence["Price"], workers: int, rates: "Rates") -> "Table":
    """A study's price: what each step takes one worker and so many, and what it leaves."""
    from harness.report.tables.numbers import duration, size
    from harness.report.tables.table import Table

    lines = []
    for price in prices:
        times = [duration(price.on(count)) for count in (1, workers)]
        lines.append((price.step, str(price.cells), *times, size(price.bytes)))
    around, *all_in = _around(prices, rates.start_up, (1, workers))
    lines.append((around[0], "", *around[1:], ""))
    cells, disk = sum(price.cells for price in prices), sum(price.bytes for price in prices)
    lines.append((all_in[0][0], str(cells), *all_in[0][1:], size(disk)))
    note = f"Rates of one worker: {rates.source}. With starting workers, Ray and the driver's own work."
    header = ("step", "cells", "one worker", f"{workers} workers", "disk")
    return Table("plan", "Price of the study", note, header, lines)


GPU_COUNTS = (1, 8, 64)


def on_gpus(prices: Sequence["Price"], gpu: str, rates: "Rates") -> "Table":
    """What each step takes 1, 8 and 64 GPUs of a kind."""
    from harness.report.tables.numbers import duration
    from harness.report.tables.table import Table

    lines: list[tuple[str, ...]] = []
    for price in prices:
        times = [duration(price.on(count)) for count in GPU_COUNTS]
        lines.append((price.step, *times))
    lines += _around(prices, rates.start_up, GPU_COUNTS)
    note = (
        f"Not measured, {rates.source}. Of a cluster that is there; tasks are not shared out further than "
        "trainings, blocks of images and networks."
    )
    return Table("gpus", f"The same on {gpu}", note, ("step", *map(str, GPU_COUNTS)), lines)


def _around(prices: Sequence["Price"], start_up: "StartUp", counts: tuple[int, ...]) -> list[tuple[str, ...]]:
    """The last lines of both: what passes before and after all steps, and everything."""
    from harness.report.tables.numbers import duration
    from harness.study.costs import whole

    beside = duration(start_up.cluster_s + start_up.closing_s)
    everything = [duration(whole(prices, start_up, count)) for count in counts]
    return [("start and end", *[beside] * len(counts)), ("all", *everything)]


@click.command()
@click.argument("parts", nargs=-1)
@data_option
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
@format_option
@results_option
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

    PARTS: bound, growth, attacks, trainings, grid, ddp, gpu; all unless some are named. Needs MNIST or
    CIFAR-10 in the data folder. Writes the table `benchmark` and prints it; what is measured on this machine
    with these versions is not measured again.
    """
    from harness import benchmark as measuring
    from harness.networks.device import device
    from harness.report.database import connect
    from harness.report.printing import show
    from harness.results.store import Store

    def tell(case: str, name: str) -> None:
        click.echo(f"{case}: {name}", err=True)

    on = device()
    if smoke:
        sizes = measuring.SMOKE
    elif on.type == "cuda":
        sizes = measuring.GPU
    else:
        sizes = measuring.FULL
    setting = measuring.Setting(data, sizes, threads or os.cpu_count() or 1, on)
    store = Store(results)
    measuring.run(store, setting, parts, repeats, again, tell)
    with connect(store) as connection:
        show(connection, ("speed",), kind)
