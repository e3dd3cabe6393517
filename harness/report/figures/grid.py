"""The (k, n) grid of the bound's defense: accuracy over k, test by test."""

from collections.abc import Iterator
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.figures.drawing import COLOURS, DASHES, MARKERS, Drawing, Plot
from harness.report.recorded import Row
from harness.report.tables.table import distinct

_WIDTH, _HEIGHT = 1.7, 1.7  # inches of a panel


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    """A figure for each grid of several k: a panel for each test, a line for each n."""
    for position, name in enumerate(distinct(row["grid"] for row in rows)):
        mine = [row for row in rows if row["grid"] == name]
        if len({row["k"] for row in mine}) < 2:
            continue
        which = f"_{position}" if position else ""
        caption = (
            "Accuracy in per cent over k, a line for each n, with 95 % intervals; solid grey: the base "
            f"network, dotted: the best control. {_counted(mine)}."
        )
        yield Drawing(f"grid{which}", f"The choice of k and n, {name}", caption, _figure(mine))


def _counted(rows: list[Row]) -> str:
    images, seeds = max(row["images"] for row in rows), max(row["seeds"] for row in rows)
    return f"{images:,} images, {seeds} seed{'' if seeds == 1 else 's'}"


def _figure(rows: list[Row]) -> Figure:
    tests, figure = distinct(row["test"] for row in rows), Figure()
    width = figure.get_figwidth()
    across = int(width // _WIDTH)
    down = ceil(len(tests) / across)
    figure.set_size_inches(width, _HEIGHT * down + 0.3)
    panels = figure.subplots(down, min(len(tests), across), sharex=True, sharey=True, squeeze=False)
    for axes, test in zip(panels.flat, tests, strict=False):
        _panel(axes, [row for row in rows if row["test"] == test])
        axes.set_title(test)
    for axes in panels.flat[len(tests) :]:
        axes.set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * across))
    return figure


def _panel(axes: Axes, rows: list[Row]) -> None:
    for position, n in enumerate(distinct(row["n"] for row in rows)):
        mine = sorted((row for row in rows if row["n"] == n), key=lambda row: row["k"])
        axes.errorbar(
            [row["k"] for row in mine],
            [row["accuracy"] for row in mine],
            yerr=_reach(mine),
            label=f"n={n}",
            color=COLOURS[position % len(COLOURS)],
            marker=MARKERS[position % len(MARKERS)],
            linestyle=DASHES[position // len(COLOURS) % len(DASHES)],
            elinewidth=0.7,
            capsize=2,
        )
    for column, label, dash in (("base_accuracy", "base", "-"), ("control_accuracy", "best control", ":")):
        known = [row[column] for row in rows if row[column] is not None]
        if known:
            axes.axhline(known[0], color="grey", linewidth=1, linestyle=dash, label=label)
    axes.grid(axis="x", visible=False)
    axes.set(ylim=(0, 100), xticks=sorted({row["k"] for row in rows}), xlabel="k")


def _reach(rows: list[Row]) -> list[list[float]]:
    """Lengths of the error bars, below and above; none where a seed of several has no interval yet."""
    below = [row["accuracy"] - row["low"] if row["low"] is not None else 0.0 for row in rows]
    above = [row["high"] - row["accuracy"] if row["high"] is not None else 0.0 for row in rows]
    return [below, above]


PLOT = Plot("grid", draw)
