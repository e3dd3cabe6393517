"""V-F: seconds of each defense over the number of training images."""

from collections.abc import Iterator
from statistics import fmean

from harness.report.figures.drawing import Drawing, Plot, legend_beside, lines, panel
from harness.report.recorded import Row
from harness.report.tables.table import distinct

_LEAST = 3  # sizes, below which nothing is seen


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    """A figure for each data set, a line for each network: the mean of its seeds."""
    rows = [row for row in rows if row["total_s"]]
    for dataset in distinct(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        if len({row["images"] for row in mine}) < _LEAST:
            continue
        figure, axes = panel()
        lines(axes, [_curve(mine, name) for name in distinct(row["name"] for row in mine)])
        axes.set(xlabel="training images", ylabel="seconds", xscale="log", yscale="log")
        legend_beside(axes)
        caption = (
            "Seconds of making the training images and of training on them, both axes logarithmic: a "
            "slope of 1 is in proportion to the images. The bound's images are drawn while it is "
            "trained; the search for its neighbours is not in it. Studies that differ in their size "
            "alone."
        )
        yield Drawing(f"complexity_{dataset}", f"Cost over the training images, {dataset}", caption, figure)


def _curve(rows: list[Row], name: str) -> tuple[str, list[float], list[float]]:
    mine = [row for row in rows if row["name"] == name]
    sizes = sorted({row["images"] for row in mine})
    means = [fmean(row["total_s"] for row in mine if row["images"] == size) for size in sizes]
    return mine[0]["title"], sizes, means


PLOT = Plot("complexity", draw)
