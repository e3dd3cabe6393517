"""Accuracies as tables show them: of one seed with the images' interval, of several with their spread."""

from collections.abc import Sequence

from harness.report.recorded import Row
from harness.report.tables.table import HOLE


def accuracy(row: Row | None) -> str:
    """A row of `over_seeds`: '98.6 ±1.3' of the only seed, '98.4 s 0.3' over several, beside the paper's.

    Empty where nothing is planned.
    """
    if row is None:
        return ""
    if row["accuracy"] is None:
        return HOLE
    text = f"{row['accuracy']:.1f}{_uncertainty(row)}"
    if row["paper"] is not None:
        text += f" ({row['paper']:.2f}){'*' if row['differs'] else ''}"
    return text


def of_one_seed(row: Row) -> str:
    """A row of `accuracies`: '98.6 ±1.3'."""
    return HOLE if row["accuracy"] is None else f"{row['accuracy']:.1f}{_interval(row)}"


def note(study: Row, rows: Sequence[Row]) -> str:
    """What the accuracies of these rows of `over_seeds` are, and how many differ from the paper's."""
    seeds = len(study["seeds"])
    what = "Accuracy in per cent ± half its 95 % Wilson interval, one seed"
    beside = "the paper's; * where the two differ at 95 %"
    chance = ", chance alone gives 1 in 20"
    if seeds > 1:
        what = f"Accuracy in per cent, mean over {seeds} seeds, s: standard deviation between them"
        beside = "the paper's, of one training; * where every seed differs from it at 95 %, to the same side"
        chance = ""
    what += _images(rows)
    compared = [row["differs"] for row in rows if row["differs"] is not None]
    if compared:
        what += f" ({beside}: {sum(compared)} of {len(compared)}{chance})"
    return what + "."


def _images(rows: Sequence[Row]) -> str:
    counts = sorted({row["images"] for row in rows if row["images"]})
    if not counts:
        return ""
    return f", {counts[0]} to {counts[-1]} images" if len(counts) > 1 else f", {counts[0]} images"


def _uncertainty(row: Row) -> str:
    if row["of_seeds"] == 1:
        return _interval(row)
    spread = "" if row["spread"] is None else f" s {row['spread']:.1f}"
    partial = "" if row["seeds"] == row["of_seeds"] else f" [{row['seeds']} of {row['of_seeds']} seeds]"
    return spread + partial


def _interval(row: Row) -> str:
    return f" ±{(row['high'] - row['low']) / 2:.1f}"
