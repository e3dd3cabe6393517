"""Fig. 4: how far the images of a data set are from their nearest neighbours."""

from collections.abc import Iterator

from harness.report.figures.drawing import Drawing, Plot, legend_beside, panel, steps
from harness.report.recorded import Row
from harness.report.tables.table import distinct

_KINDS = {"other_class": "nearest of another class", "any_class": "nearest of any class"}


def draw(study: Row, rows: list[Row]) -> Iterator[Drawing]:
    if not rows:
        return
    figure, axes = panel()
    for position, kind in enumerate(distinct(row["neighbours"] for row in rows)):
        mine = [row for row in rows if row["neighbours"] == kind]
        edges = [row["low"] for row in mine] + [mine[-1]["high"]]
        shares = [100 * row["share"] for row in mine]
        steps(axes, position, _KINDS.get(kind, kind), shares, edges)
    axes.set(xlabel="distance d to the nearest image, in [0, 1]", ylabel="training images, %")
    axes.set(xlim=(0, None), ylim=(0, None))
    legend_beside(axes)
    caption = (
        "Training images by the distance to their nearest neighbour, the mean absolute difference of "
        "a value, in 20 bins for each kind."
    )
    yield Drawing("class_distance", "Fig. 4: class distance", caption, figure)


PLOT = Plot("class_distance", draw)
