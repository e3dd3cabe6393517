"""The figures, each in a file of its own; one line here for each.

A file draws the rows of an SQL view: every number comes from there.
"""

from collections.abc import Iterator

import duckdb

from harness.report.database import query
from harness.report.figures import class_distance, complexity, effectiveness, grid, magnitude, robustness
from harness.report.figures.drawing import PAGE, Drawing, style
from harness.report.recorded import Row

FIGURES = {
    "robustness": robustness.PLOT,
    "class_distance": class_distance.PLOT,
    "magnitude": magnitude.PLOT,
    "effectiveness": effectiveness.PLOT,
    "complexity": complexity.PLOT,
    "grid": grid.PLOT,
}


def drawn(
    connection: duckdb.DuckDBPyConnection, study: Row, name: str, width: float = PAGE
) -> Iterator[Drawing]:
    """The figures of that name, so many inches wide, of a study (its row of `studies`), or of all that there
    are (an empty row).
    """
    plot = FIGURES[name]
    rows = query(connection, f"from {plot.source}").to_pylist()
    mine = [row for row in rows if not study or row["study"] == study["study"]]
    with style(width):
        yield from list(plot.draw(study, mine))
