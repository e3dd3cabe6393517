"""Every attack on every network as a table of coloured cells."""

from dataclasses import dataclass
from statistics import fmean

from harness.report.recorded import Row
from harness.report.tables.table import HOLE, distinct

SOURCE = "accuracies where access in ('black_box', 'white_box') and stage is not true"


@dataclass(frozen=True)
class Cell:
    """An accuracy in per cent as text, and the share of black that its ground gets, in [0, 1]."""

    text: str
    shade: float | None


@dataclass(frozen=True)
class HeatMap:
    """Rows (network, cells), one cell for each of ``attacks``."""

    attacks: list[str]
    rows: list[tuple[str, list[Cell]]]


def heat_map(rows: list[Row]) -> HeatMap:
    """Of rows of ``SOURCE``, in the study's order."""
    attacks = distinct(_title(row) for row in rows)
    lines = []
    for name in distinct(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        cells = [_cell([row for row in mine if _title(row) == attack]) for attack in attacks]
        lines.append((mine[0]["title"], cells))
    return HeatMap(attacks, lines)


def _title(row: Row) -> str:
    return f"{row['attack_title']}{' (black box)' if row['access'] == 'black_box' else ''}"


def _cell(rows: list[Row]) -> Cell:
    """The mean over the seeds of the smallest over step sizes."""
    by_seed: dict[int | None, list[float]] = {}
    for row in rows:
        if row["accuracy"] is not None:
            by_seed.setdefault(row["seed"], []).append(row["accuracy"])
    if not by_seed:
        return Cell(HOLE, None)
    value = fmean(min(values) for values in by_seed.values())
    return Cell(f"{value:.1f}", round(1 - value / 100, 2))
