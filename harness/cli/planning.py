"""Commands on time: what a study will cost, and how fast this machine is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import code_option, data_option, format_option, overrides_option, results_option

if TYPE_CHECKING:
    from harness.data.source import Extent
    from harness.report.tables.table import Table
    from harness.study.costs import Price, Rates
    from harness.study.spec import Study


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

    Measures for some seconds how fast this machine trains and attacks the study's network. Without STUDY:
    what the bound of a large data set costs on machines of several kinds (ImageNet-1k at 64 x 64 unless told
    otherwise).
    """
    if study is None:
        _price_bound(images, values)
    else:
        _price_study(study, overrides, data, workers, tflops)


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
    study: str, overrides: tuple[str, ...], data: Path | None, workers: int | None, tflops: float | None
) -> None:
    """Print what a study costs, step by step; ``tflops`` is a worker's assumed speed, None measures it."""
    from harness.neighbours import growth
    from harness.pipeline.run import price
    from harness.report.printing import render
    from harness.report.tables.numbers import size
    from harness.study import costs
    from harness.study.plan import plan as planned
    from harness.study.reading import load

    chosen = load(study, overrides)
    extent = costs.extent(chosen, data)
    rates = _rates(chosen, extent, tflops)
    model = growth.BoundModel.fit(growth.packaged())
    prices = price(costs.Quote(planned(chosen, "", None), extent, rates, model))
    priced = table(prices, workers or costs.workers_here(), rates.source)
    click.echo(render([priced], "rich"), nl=False)
    shared, each = costs.memory(chosen, extent)
    click.echo(
        f"Memory: images {size(shared)} a machine, a training {size(each)} a worker beside its activations."
    )


def _rates(study: "Study", extent: "Extent", tflops: float | None) -> "Rates":
    from harness.study import costs

    if tflops is None:
        return costs.measured_rates(study, extent)
    return costs.assumed_rates(study, extent, tflops)


def table(prices: Sequence["Price"], workers: int, source: str) -> "Table":
    """A study's price: what each step takes on so many workers, and all of them; ``source`` of the rates."""
    from harness.report.tables.numbers import duration, size
    from harness.report.tables.table import Table

    seconds = [price.seconds / max(1, min(workers, price.workers)) for price in prices]
    lines: list[tuple[str, ...]] = []
    for price, shared in zip(prices, seconds, strict=True):
        cells, alone, disk = str(price.cells), duration(price.seconds), size(price.bytes)
        lines.append((price.step, cells, alone, duration(shared), disk))
    cells = str(sum(price.cells for price in prices))
    alone = duration(sum(price.seconds for price in prices))
    disk = size(sum(price.bytes for price in prices))
    lines.append(("all", cells, alone, duration(sum(seconds)), disk))
    note = f"Rates of one worker: {source}. Starting workers (seconds a step) is left out."
    header = ("step", "cells", "one worker", f"{workers} workers", "disk")
    return Table("plan", "Price of the study", note, header, lines)


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
