"""Accuracies as tables show them: with an interval over the test images, or over several seeds."""

from collections.abc import Sequence

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import FAILS, HOLE


def accuracy(row: Row | None) -> str:
    """A row of `over_seeds`: '98.6 [96.8, 99.4]', beside the paper's number.

    Empty where nothing is planned; marked where the network fails its checks.
    """
    if row is None:
        return ""
    if row["accuracy"] is None:
        return HOLE
    text = with_interval(row["accuracy"], row["low"], row["high"]) + _partial(row)
    if row["paper"] is not None:
        text += f" ({row['paper']:.2f}){'*' if row['differs'] else ''}"
    return text + (f" {FAILS}" if row["verdict"] == "fail" else "")


def of_one_seed(row: Row) -> str:
    """A row of `accuracies`: '98.6 [96.8, 99.4]'."""
    return HOLE if row["accuracy"] is None else with_interval(row["accuracy"], row["low"], row["high"])


def note(study: Row, rows: Sequence[Row]) -> str:
    """What the accuracies of these rows of `over_seeds` are, and how many differ from the paper's."""
    seeds = len(study["seeds"])
    what = "Accuracy in per cent [95 % Wilson interval], one seed: test images only"
    beside = "the paper's; * where the two differ at 95 %"
    chance = ", chance alone gives 1 in 20"
    if seeds > 1:
        what = f"Accuracy in per cent, mean over {seeds} seeds [95 % t interval]"
        beside = "the paper's, of one training; * where every seed differs from it at 95 %, to the same side"
        chance = ""
    what += _images(rows)
    compared = [row["differs"] for row in rows if row["differs"] is not None]
    if compared:
        what += f" ({beside}: {sum(compared)} of {len(compared)}{chance})"
    return f"{what}.{_least_difference(rows)}{_exceeding(rows)}"


def _images(rows: Sequence[Row]) -> str:
    counts = sorted({row["images"] for row in rows if row["images"]})
    if not counts:
        return ""
    return f", {counts[0]} to {counts[-1]} images" if len(counts) > 1 else f", {counts[0]} images"


def _least_difference(rows: Sequence[Row]) -> str:
    """What so many seeds can show; the base network has a spread of its own."""
    by_attack = {
        row["attack_title"]: row["least_difference"]
        for row in rows
        if row["least_difference"] is not None and row["role"] != "base"
    }
    if not by_attack:
        return ""
    least, most = min(by_attack, key=by_attack.__getitem__), max(by_attack, key=by_attack.__getitem__)
    points = f"{by_attack[least]:.1f} ({least}) to {by_attack[most]:.1f} points ({most})"
    if least == most:
        points = f"{by_attack[least]:.1f} points"
    return f" Two networks that differ by less than {points} are tied."


def _exceeding(rows: Sequence[Row]) -> str:
    """Whether any attacked accuracy is above the clean one, which no attack that wants to harm can mean."""
    count = sum(
        row["attack"] != "none" and (row["accuracy"] or 0) > (row["clean_accuracy"] or 100) for row in rows
    )
    if not count:
        return ""
    return (
        f" {count} above the network's clean accuracy: here, as in the paper, a misclassified image that an "
        "attack drives onto its class counts as right; robust accuracy counts none."
    )


def _partial(row: Row) -> str:
    return "" if row["seeds"] == row["of_seeds"] else f" {row['seeds']} of {row['of_seeds']} seeds"
