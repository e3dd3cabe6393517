"""The ranking: all networks by robust accuracy."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.report.tables.table import HOLE, Layout, Line, Table, faint_lines, named

_NOTE = (
    "robust: right on the clean image and under every attack that was measured within the radius, in per "
    "cent [95 % interval]; <= where attacks are still to be made or none was made on the network itself. "
    "credit: robust accuracy minus the best control's, in points, and whether it is better than that "
    "(yes, no, not shown). tied: the difference to the first is none that {basis} can show."
)


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A table for each threat model; networks without a rank stand below the others."""
    threats: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        threats.setdefault((row["norm"], row["epsilon"]), []).append(row)
    for mine in threats.values():
        title = f"Ranking at {mine[0]['radius']} ({mine[0]['norm']})"
        yield Table("ranking", title, _note(study, mine), _header(mine), _lines(mine), faint_lines(mine))


def _header(rows: list[Row]) -> Line:
    radii = {row["certified_radius"] for row in rows} - {None}
    certified = tuple(f"certified l2 {radius:g}" for radius in radii)
    return ("rank", "network", "clean", "robust", "credit", *certified, "attacks", "verdict")


def _lines(rows: list[Row]) -> list[Line]:
    is_certified = any(row["certified_radius"] is not None for row in rows)
    return [_line(row, is_certified) for row in rows]


def _line(row: Row, is_certified: bool) -> Line:
    certified = (HOLE if row["certified"] is None else f"{row['certified']:.1f}",) if is_certified else ()
    return (
        _rank(row),
        named(row),
        HOLE if row["clean_accuracy"] is None else f"{row['clean_accuracy']:.1f}",
        _robust(row),
        _credit(row),
        *certified,
        str(len(row["attacks"] or ())),
        f"{row['verdict']}: {row['reason']}" if row["reason"] else row["verdict"],
    )


def _rank(row: Row) -> str:
    if row["rank"] is None:
        return ""
    return f"{row['rank']} tied" if row["first"] == "tied" else str(row["rank"])


def _robust(row: Row) -> str:
    if row["accuracy"] is None:
        return HOLE
    bound = "" if row["is_complete"] else "<= "
    return bound + with_interval(row["accuracy"], row["low"], row["high"])


def _credit(row: Row) -> str:
    if row["credit"] is None:
        return ""
    return f"{with_interval(row['credit'], row['credit_low'], row['credit_high'], '+')} {row['better']}"


def _note(study: Row, rows: list[Row]) -> str:
    several = len(study["seeds"]) > 1
    seeds = f"{len(study['seeds'])} seeds" if several else "one seed: test images only"
    images = max(row["images"] or 0 for row in rows)
    note = _NOTE.format(basis="so many seeds" if several else "the images")
    note += f" {seeds[0].upper() + seeds[1:]}, {images} images."
    attacks = sorted({attack for row in rows for attack in row["attacks"] or ()})
    listed = ", ".join(attacks) or "none yet"
    note += f" Attacks (the column counts those with a change within the radius): {listed}."
    missing = sorted({attack for row in rows for attack in row["missing"] or ()})
    note += f" Missing: {', '.join(missing)}." if missing else ""
    if any(row["verdict"] == "fail" for row in rows):
        note += " Networks that fail their checks have no rank, whatever their accuracy reads."
    return note


LAYOUT = Layout("ranking semi join printed_threat_models using (study, norm, epsilon)", lay_out)
