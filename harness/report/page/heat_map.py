"""Every attack on every network as a table of coloured cells."""

from dataclasses import dataclass

from harness.report.recorded import Row
from harness.report.tables.table import HOLE, distinct

SOURCE = "under_attack"


@dataclass(frozen=True)
class Cell:
    """An accuracy in per cent and its interval, and the share of black that its ground gets, in [0, 1]."""

    text: str
    interval: str
    shade: float | None


@dataclass(frozen=True)
class HeatMap:
    """Rows (network, cells), one cell for each of ``attacks`` (title, how many images and seeds)."""

    attacks: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell]]]

    @property
    def counted(self) -> str:
        """How many images and seeds, in a sentence."""
        counts = distinct(count for _, count in self.attacks)
        if len(counts) == 1:
            return f"{counts[0]} of each."
        return "; ".join(f"{attack}: {count}" for attack, count in self.attacks) + "."


def heat_map(rows: list[Row]) -> HeatMap:
    """Of rows of ``SOURCE``, in the study's order."""
    titles = distinct(row["attack_title"] for row in rows)
    attacks = [(title, _counted([row for row in rows if row["attack_title"] == title])) for title in titles]
    lines = []
    for name in distinct(row["name"] for row in rows):
        mine = {row["attack_title"]: row for row in rows if row["name"] == name}
        title = next(iter(mine.values()))["title"]
        lines.append((title, [_cell(mine.get(attack)) for attack in titles]))
    return HeatMap(attacks, lines)


def _counted(rows: list[Row]) -> str:
    """'359 images, 3 seeds': the most of any network."""
    images, seeds = max(row["images"] or 0 for row in rows), max(row["seeds"] for row in rows)
    return f"{images:,} images, {seeds} seed{'' if seeds == 1 else 's'}"


def _cell(row: Row | None) -> Cell:
    if row is None or row["accuracy"] is None:
        return Cell(HOLE, "", None)
    interval = "" if row["low"] is None else f"[{row['low']:.1f}, {row['high']:.1f}]"
    return Cell(f"{row['accuracy']:.1f}", interval, round(1 - row["accuracy"] / 100, 2))
