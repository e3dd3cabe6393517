"""Effectiveness of the attacks against the bound, as a curve over tau x sigma."""

from collections.abc import Iterator
from statistics import fmean

from harness.report.figures.drawing import Drawing, Plot, legend_beside, lines, panel
from harness.report.recorded import Row
from harness.report.tables.table import attack_of, distinct


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    if not rows:
        return
    figure, axes = panel()
    lines(axes, [_curve(rows, attack) for attack in distinct(map(attack_of, rows))])
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="tau", ylabel="effective, %", ylim=(0, 100), xlim=(0, 4))
    legend_beside(axes)
    caption = (
        "Share of the test images that each attack on the base network fools with a mean l1 change of at "
        f"most tau times the image's own sigma (k = {study['effectiveness_k']:g}). Table III is tau = 1, "
        "dotted."
    )
    yield Drawing("effectiveness", "Effectiveness over tau x sigma", caption, figure)


def _curve(rows: list[Row], attack: tuple[str, float | None]) -> tuple[str, list[float], list[float]]:
    mine = [row for row in rows if attack_of(row) == attack]
    taus = distinct(row["tau"] for row in mine)
    means = [fmean(row["effective"] for row in mine if row["tau"] == tau) for tau in taus]
    return mine[0]["attack_title"], taus, means


PLOT = Plot("effectiveness_curve", draw)
