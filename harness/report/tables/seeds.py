"""Each seed's accuracy by itself, with its interval over the test images."""

from collections.abc import Iterator

from harness.report.recorded import Row
from harness.report.tables.accuracy import of_one_seed
from harness.report.tables.table import Layout, Table, with_holes_counted

_NOTE = "Accuracy in per cent [95 % Wilson interval over the test images, which knows of no other seed]."


def lay_out(study: Row, rows: list[Row]) -> Iterator[Table]:
    """A line for each network and set of images, a column for each seed."""
    seeds = study["seeds"]
    measured: dict[tuple[str, str], dict[int, str]] = {}
    for row in rows:
        measured.setdefault((row["title"], _attack(row)), {})[row["seed"]] = of_one_seed(row)
    lines = [(*names, *(by_seed.get(seed, "") for seed in seeds)) for names, by_seed in measured.items()]
    header = ("network", "attack", *(f"seed {seed}" for seed in seeds))
    yield with_holes_counted(Table("seeds", "Each seed by itself", _NOTE, header, lines))


def _attack(row: Row) -> str:
    if row["access"] != "white_box":
        return str(row["attack_title"])
    step = "" if row["divisor"] is None else f", eps/{row['divisor']:g}"
    return f"{row['attack_title']} in the white box{step}"


LAYOUT = Layout("seeds", lay_out, of_several_seeds=True, in_csv=False)
