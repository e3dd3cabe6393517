"""Everything that results hold of a test image: the bound, and what became of it under every attack."""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from harness.errors import HarnessError
from harness.report.database import query
from harness.report.recorded import Row
from harness.report.tables.numbers import exact, significant
from harness.report.tables.table import HOLE, Line, Table, distinct

_KINDS = {"other_class": "of another class", "any_class": "of any class"}
_BOUND_NOTE = (
    "The nearest training images, and sigma = distance / (2 k); attacks are scored by the neighbour {kind}."
)
_FATES_NOTE = (
    "The class that each network gives. change: mean l1 change over the image's own sigma at k={k:g}; at "
    "most 1 is imperceptible by the paper's definition."
)


@dataclass(frozen=True)
class Passport:
    """One test image of a study: rows of `image_bounds`, `image_fates` and `image_radii`."""

    study: Row
    image_id: int
    label: str
    bounds: list[Row]
    fates: list[Row]
    radii: list[Row]


def passports(
    connection: duckdb.DuckDBPyConnection, study: Row, images: Iterable[int], seed: int | None = None
) -> list[Passport]:
    """Of these test images of a study (its row of `studies`), in this order; ``seed``: of its networks alone.

    Raises HarnessError for an image that the study has not.
    """
    images = list(images)
    wanted = f"image_id in ({', '.join(map(str, map(int, images))) or 'null'})"
    seeds = "" if seed is None else f" and seed = {int(seed)}"
    bounds = _by_image(connection, "image_bounds", wanted, "neighbours desc, k")
    fates = _by_image(connection, "image_fates", wanted + seeds, "network_position, position")
    radii = _by_image(connection, "image_radii", wanted + seeds, "position, noise_sd")
    made = []
    for image in images:
        known = [*bounds.get(image, []), *fates.get(image, [])]
        if not known:
            raise _unknown(connection, study, image)
        label = known[0]["class"]
        mine = (bounds.get(image, []), fates.get(image, []), radii.get(image, []))
        made.append(Passport(study, image, label, *mine))
    return made


def _by_image(
    connection: duckdb.DuckDBPyConnection, view: str, wanted: str, order: str
) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in query(connection, f"from {view} where {wanted} order by {order}").to_pylist():
        found.setdefault(row["image_id"], []).append(row)
    return found


def _unknown(connection: duckdb.DuckDBPyConnection, study: Row, image: int) -> HarnessError:
    test = "(select image_id from bound where {0} union select image_id from evaluation where {0})"
    counted = "select count(*) as images, min(image_id) as low, max(image_id) as high from "
    (there,) = query(connection, counted + test.format("split = 'test'")).to_pylist()
    if not there["images"]:
        return HarnessError(f"study '{study['study']}' has no results of test images yet")
    return HarnessError(
        f"no test image {image} in study '{study['study']}': expected one of its {there['images']} ids "
        f"from {there['low']} to {there['high']}"
    )


@dataclass(frozen=True)
class Matrix:
    """Networks by attacks; a cell is a text and whether the network errs.

    Of the step sizes of an attack the smallest change that fools is shown.
    """

    attacks: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def matrix(passport: Passport) -> Matrix:
    """What each network says: '3', or '5 ✗ 0.42': wrong, the change in units of sigma that fooled it."""
    fates = [row for row in passport.fates if not row["stage"]]
    attacks = distinct(_column(row) for row in fates)
    lines = []
    for name in distinct(row["name"] for row in fates):
        mine = [row for row in fates if row["name"] == name]
        cells = [_cell([row for row in mine if _column(row) == attack]) for attack in attacks]
        lines.append((mine[0]["title"], cells))
    return Matrix(attacks, lines)


def _column(row: Row) -> str:
    return f"{row['attack_title']}{' (black box)' if row['access'] == 'black_box' else ''}"


def _cell(rows: list[Row]) -> tuple[str, bool]:
    if not rows:
        return "", False
    fooled = [row for row in rows if row["fate"] == "fooled" and row["ratio"] is not None]
    row = min(fooled, key=lambda row: row["ratio"]) if fooled else rows[0]
    errs = row["prediction"] != row["label"]
    change = f" {number(row['ratio'], 2)}" if fooled else ""
    return (f"{row['prediction']} ✗{change}" if errs else str(row["prediction"])), errs


# --- as tables ---------------------------------------------------------------------------------------


def tables(passport: Passport) -> list[Table]:
    """For a terminal: the bound, every network against every attack, certified radii."""
    return [bound_table(passport), *_fates(passport), *radii_tables(passport)]


def bound_table(passport: Passport) -> Table:
    """A line for each kind of neighbour, sigma at each k."""
    title = f"Test image {passport.image_id} of {passport.study['title']}, class {passport.label}"
    if not passport.bounds:
        return Table("bound", title, "Its bound is not made yet.", ("nearest",), [])
    ks = sorted({row["k"] for row in passport.bounds})
    header = ("nearest", "training image", "class", "distance", *(f"sigma k={k:g}" for k in ks))
    lines: list[Line] = []
    for kind, words in _KINDS.items():
        mine = [row for row in passport.bounds if row["neighbours"] == kind]
        if mine:
            first, sigmas = mine[0], {row["k"]: significant(row["sigma"], 3) for row in mine}
            named = (words, str(first["neighbour_id"]), first["neighbour_class"])
            lines.append((*named, significant(first["distance"], 3), *(sigmas.get(k, HOLE) for k in ks)))
    kind = _KINDS[passport.study["neighbours"]]
    return Table("bound", title, _BOUND_NOTE.format(kind=kind), header, lines)


def _fates(passport: Passport) -> Iterable[Table]:
    if not passport.fates:
        return
    several = len(passport.study["seeds"]) > 1
    header = ("network", "made on", "attack", "step", "says", "fate", "change", "mean l1", "l0", "l2", "linf")
    lines: list[Line] = []
    for row in passport.fates:
        title = f"{row['title']} (seed {row['seed']})" if several else row["title"]
        made_on = {"clean": "", "black_box": "base", "white_box": "itself"}[row["access"]]
        norms = (number(row["mean_l1"], 3), exact(row["l0"]), number(row["l2"], 3), number(row["linf"], 3))
        step = "" if row["step_size"] is None else significant(row["step_size"], 2)
        named = (title, made_on, row["attack_title"], step, row["predicted"], row["fate"])
        lines.append((*named, number(row["ratio"], 2), *norms))
    note = _FATES_NOTE.format(k=passport.study["effectiveness_k"])
    yield Table("fates", "Every network on it, clean and attacked", note, header, lines)


def radii_tables(passport: Passport) -> Iterable[Table]:
    """A line for each smoothed network; none where nothing was certified."""
    if passport.radii:
        header = ("smoothed network", "noise", "says", "certified l2", "smallest l2 that fools")
        yield Table("radii", "Certified radius", "", header, [radius_line(row) for row in passport.radii])


def radius_line(row: Row) -> Line:
    """A row of `image_radii`."""
    named = (row["title"], f"{row['noise_sd']:g}", row["predicted"] or "abstains")
    return (*named, number(row["radius"], 3), number(row["attacked_l2"], 3) or HOLE)


def number(value: float | None, digits: int) -> str:
    """So many digits; nothing for null."""
    return "" if value is None else significant(value, digits)
