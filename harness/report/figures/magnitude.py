"""Fig. 5: how large the changes are that the attacks make."""

from collections.abc import Iterator
from statistics import fmean

from harness.report.figures.drawing import Drawing, Plot, legend_beside, panel, steps
from harness.report.recorded import Row
from harness.report.tables.table import distinct


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    """Of attacks that look for the smallest change: one of a given size says nothing here.

    As densities: each attack's bins have a width of their own.
    """
    mine = [row for row in rows if row["epsilon"] is None]
    if not mine:
        return
    figure, axes = panel()
    attacks = distinct(row["attack"] for row in mine)
    for position, attack in enumerate(attacks):
        shown = [row for row in mine if row["attack"] == attack and row["seed"] == study["seeds"][0]]
        edges = [row["low"] for row in shown] + [shown[-1]["high"]]
        density = [row["share"] / (row["high"] - row["low"]) if row["high"] else 0.0 for row in shown]
        steps(axes, position, attack, density, edges)
    axes.set(
        xlabel="mean l1 change, in [0, 1]", ylabel="test images, density", xlim=(0, None), ylim=(0, None)
    )
    legend_beside(axes)
    means = ", ".join(f"{attack} {_mean(mine, attack):.4f}" for attack in attacks)
    caption = (
        "Test images by the size of the change that the attacks on the base network made (seed "
        f"{study['seeds'][0]}). Means over the bins: {means}. The paper's Fig. 5 shows DeepFool."
    )
    yield Drawing("magnitude", "Fig. 5: magnitude of the perturbation", caption, figure)


def _mean(rows: list[Row], attack: str) -> float:
    """From the middles of the bins; the mean over the seeds."""
    mine = [row for row in rows if row["attack"] == attack]
    by_seed: dict[int, float] = {}
    for row in mine:
        middle = (row["low"] + row["high"]) / 2
        by_seed[row["seed"]] = by_seed.get(row["seed"], 0.0) + row["share"] * middle
    return fmean(by_seed.values())


PLOT = Plot("magnitude", draw)
