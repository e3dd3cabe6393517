"""Any two networks on the same images."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import Layout, Line, Table

_NOTE = (
    "Robust accuracy of two networks on the same test images: those that one alone is right on, the "
    "difference in points [paired 95 % interval], exact McNemar p, adjusted by Holm over the table; tied: "
    "p Holm of .05 or more. It speaks of these trainings: trained again, networks of the same settings "
    "may differ."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A table for each seed and threat model."""
    tests: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        tests.setdefault((f"{row['radius']} ({row['norm']})", row["seed"]), []).append(row)
    header = ("a", "b", "only a", "only b", "a - b", "p", "p Holm", "verdict")
    for (radius, seed), mine in tests.items():
        yield Table("pairs", f"Pairs at {radius}, seed {seed}", _NOTE, header, [_line(row) for row in mine])


def _line(row: Row) -> Line:
    difference = with_interval(row["difference"], row["low"], row["high"], "+")
    numbers = (str(row["only_a"]), str(row["only_b"]), difference, f"{row['p']:.2g}", f"{row['p_holm']:.2g}")
    return (row["title_a"], row["title_b"], *numbers, _verdict(row))


def _verdict(row: Row) -> str:
    if row["verdict"] == "tied":
        return "tied"
    return "a is better" if row["difference"] > 0 else "b is better"


LAYOUT = Layout(
    "pairs semi join printed_threat_models using (study, norm, epsilon)", lay_out, printed=False, in_csv=False
)
