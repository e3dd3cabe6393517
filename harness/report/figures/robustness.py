"""Robust accuracy over the radius of the attacks."""

from collections.abc import Iterator
from statistics import fmean

from harness.report.figures.drawing import Drawing, Plot, legend_beside, lines, panel
from harness.report.recorded import Row
from harness.report.tables.table import distinct

_AXES = {"linf": "l-inf radius", "l2": "l2 radius", "l1": "l1 radius (sum over the values)"}


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    """A figure for each norm, a line for each network: the mean over its seeds."""
    for norm in distinct(row["norm"] for row in rows):
        mine = [row for row in rows if row["norm"] == norm]
        figure, axes = panel()
        lines(axes, [_curve(mine, name) for name in distinct(row["name"] for row in mine)])
        axes.set(xlabel=_AXES.get(norm, norm), ylabel="robust accuracy, %", ylim=(0, 100), xlim=(0, None))
        legend_beside(axes)
        caption = (
            "Share of the test images that each network is right on, and for which no change within the "
            "radius was found that fools it; the mean over its seeds. Upper bounds: where no attack was "
            "made for a radius, those made for others count."
        )
        yield Drawing(f"robustness_{norm}", f"Robust accuracy over the {norm} radius", caption, figure)


def _curve(rows: list[Row], name: str) -> tuple[str, list[float], list[float]]:
    mine = [row for row in rows if row["name"] == name]
    radii = distinct(row["epsilon"] for row in mine)
    means = [fmean(row["accuracy"] for row in mine if row["epsilon"] == radius) for radius in radii]
    return mine[0]["title"], radii, means


PLOT = Plot("robustness_curve", draw)
