"""Certified accuracy of the smoothed networks over l2 radii; and the sandwich, which tries to refute it."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import HOLE, Layout, Line, Table, distinct

_SMOOTHED = (
    "Share of the test images, in per cent, whose class the network smoothed with noise N(0, {sd:g}^2) "
    "keeps everywhere within each l2 radius (Cohen et al. 2019: {n0} + {n} draws, alpha = {alpha:g} an "
    "image); a certificate is of the smoothed network, not of the network itself. "
    "[95 % interval]: {interval}. {images} images."
)
_SANDWICH = (
    "Certified radii against the smallest l2 change found that takes the smoothed network to another class. "
    "A radius above it is a violation; chance gives more than allowed in one table of a thousand."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network, a column for each radius."""
    if not rows:
        return
    radii = distinct(row["certified_radius"] for row in rows)
    networks: dict[str, dict[float, Row]] = {}
    for row in rows:
        networks.setdefault(row["name"], {})[row["certified_radius"]] = row
    header = ("network", "clean", "abstains", *(f"l2 {radius:g}" for radius in radii))
    lines = [_line([mine[radius] for radius in radii]) for mine in networks.values()]
    yield Table("certified_accuracy", "Certified accuracy", _note(study, rows), header, lines)


def _line(rows: list[Row]) -> Line:
    first = rows[0]
    shares = (with_interval(row["accuracy"], row["low"], row["high"]) for row in rows)
    return (first["title"], f"{first['clean']:.1f}", f"{first['abstains']:.1f}", *shares)


def _note(study: Row, rows: list[Row]) -> str:
    seeds, first = len(study["seeds"]), rows[0]
    return _SMOOTHED.format(
        sd=first["noise_sd"],
        n0=first["selection_draws"],
        n=first["certification_draws"],
        alpha=first["alpha"],
        interval="one seed, Wilson's" if seeds == 1 else f"mean over {seeds} seeds, t",
        images=max(row["images"] for row in rows),
    )


def lay_out_sandwich(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network and seed, one that chance does not explain told in a sentence."""
    if not rows:
        return
    header = ("network", "seed", "attacked", "fooled", "violations", "allowed", "certified / change")
    lines: list[Line] = [
        (
            row["title"],
            str(row["seed"]),
            *(str(row[name]) for name in ("attacked", "fooled", "violations", "allowed")),
            HOLE if row["median_ratio"] is None else f"{row['median_ratio']:.2f}",
        )
        for row in rows
    ]
    told = "".join(f" {row['title']}: {row['sentence']}." for row in rows if row["verdict"] == "fail")
    yield Table("sandwich", "Certificates against attacks", _SANDWICH + told, header, lines)


LAYOUT = Layout("certified_over_seeds", lay_out)
SANDWICH = Layout("sandwich", lay_out_sandwich)
