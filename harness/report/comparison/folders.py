"""The same studies in two folders of results: which cells have other values, and which one folder lacks.

Cells are matched by what they measure, in the words of their study: 'base against fgsm 0.1', of a seed. Their
keys differ with every setting.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import HarnessError, did_you_mean
from harness.report.comparison.causes import Cause, Meta, likely
from harness.results.records import SCHEMAS
from harness.results.store import Store
from harness.results.values import differing

Row = Mapping[str, Any]
# Study (as the first folder calls it), table, seed or none, title without it.
What: TypeAlias = tuple[str, str, int | None, str]
_OF_IMAGES = ("bound", "classes", "sample")  # tables whose cells are of no seed
_SEED = re.compile(r" \(seed (\d+)\)$")


@dataclass(frozen=True)
class Side:
    """One of the two folders: its cells by what they measure; ``done``: those that are there."""

    store: Store
    cells: Mapping[What, Row]
    done: Mapping[What, Path]
    reasons: Mapping[str, str]  # why a cell could not be made, by its path
    _read: dict[What, Meta] = field(default_factory=dict)

    def metadata(self, what: What) -> Meta:
        """What made a cell that is there."""
        if what not in self._read:
            self._read[what] = self.store.metadata(self.done[what])
        return self._read[what]

    @cached_property
    def by_path(self) -> dict[str, What]:
        return {path.as_posix(): what for what, path in self.done.items()}

    def state(self, what: What) -> str:
        """Why a cell is not there."""
        if what not in self.cells:
            return "not planned"
        return self.reasons.get(str(self.cells[what]["path"]), "not made yet")


@dataclass(frozen=True)
class Different:
    """A cell whose values differ: ``columns``, and how; the likely causes."""

    what: What
    columns: Mapping[str, str]
    causes: tuple[Cause, ...]


@dataclass
class Folders:
    """Two folders of results, compared when something is asked of them."""

    a: Side
    b: Side
    studies: Mapping[str, str]  # of the first -> of the second
    _likely: dict[What, tuple[Cause, ...]] = field(default_factory=dict)
    _columns: dict[What, dict[str, str]] = field(default_factory=dict)

    @cached_property
    def both(self) -> list[What]:
        return [what for what in self.a.done if what in self.b.done]

    @cached_property
    def different(self) -> list[Different]:
        """Of the cells that both hold, in the order of the study."""
        return [
            Different(what, self._differences(what), self._causes(what))
            for what in self.both
            if self._differences(what)
        ]

    @cached_property
    def one_sided(self) -> list[tuple[str, What, str]]:
        """('a' or 'b', which has it; the cell; why the other has not)."""
        sides = (("a", self.a, self.b), ("b", self.b, self.a))
        return [
            (name, what, other.state(what))
            for name, side, other in sides
            for what in side.done
            if what not in other.done
        ]

    def _differences(self, what: What) -> dict[str, str]:
        """How the values of a cell differ, by column; of weights or images, whether they do."""
        if what not in self._columns:
            self._columns[what] = self._compared(what)
        return self._columns[what]

    def _compared(self, what: What) -> dict[str, str]:
        a, b = (side.metadata(what) for side in (self.a, self.b))
        settings = {"cell", *a["columns"]}
        columns = [name for name in SCHEMAS[what[1]].measured if name not in settings]
        rows = [side.store.rows(side.done[what]) for side in (self.a, self.b)]
        found = differing(rows[0], rows[1], columns, "in b")
        if (a["artifact"] or {}).get("sha256") != (b["artifact"] or {}).get("sha256"):
            found["weights" if what[1] == "training" else "images"] = "others"
        return found

    def _causes(self, what: What) -> tuple[Cause, ...]:
        if what not in self._likely:
            pair = self.a.metadata(what), self.b.metadata(what)
            self._likely[what] = likely(pair, [self._causes(need) for need in self._needs(what)])
        return self._likely[what]

    def _needs(self, what: What) -> list[What]:
        """Cells that a cell was made from and that are others in the two folders."""
        needs = [self.a.by_path.get(path) for path in self.a.metadata(what)["made_from"]]
        there = [need for need in needs if need is not None and need in self.b.done]
        return [need for need in there if self._is_another(need)]

    def _is_another(self, what: What) -> bool:
        keys = {side.done[what].stem for side in (self.a, self.b)}
        return len(keys) > 1 or bool(self._differences(what))


def folders(a: Store, b: Store, study: str | None) -> Folders:
    """Two folders, of the studies that both hold, or the one named; where each holds one study, these.

    HarnessError where there is none to compare.
    """
    records = [store.studies() for store in (a, b)]
    studies = _matched(records[0], records[1], study)
    if not studies:
        raise HarnessError(
            f"no study is in both '{a.folder}' ({', '.join(records[0]) or 'none'}) "
            f"and '{b.folder}' ({', '.join(records[1]) or 'none'})"
        )
    names = {name: name for name in studies}, {other: name for name, other in studies.items()}
    sides = [_side(store, record, own) for store, record, own in zip((a, b), records, names, strict=True)]
    return Folders(sides[0], sides[1], studies)


def _matched(a: Mapping[str, Row], b: Mapping[str, Row], study: str | None) -> dict[str, str]:
    if study is not None:
        for records in (a, b):
            if study not in records:
                raise HarnessError(f"no study '{study}'{did_you_mean(study, records)}")
        return {study: study}
    if len(a) == len(b) == 1:
        return dict(zip(a, b, strict=True))
    return {name: name for name in a if name in b}


def _side(store: Store, records: Mapping[str, Row], studies: Mapping[str, str]) -> Side:
    """The cells of some studies: name in this folder -> what it is called here."""
    files = store.files()
    cells: dict[What, Row] = {}
    for name, shown in studies.items():
        cells.update(_of_study(shown, records[name]))
    done = {what: Path(cell["path"]) for what, cell in cells.items() if Path(cell["path"]) in files}
    reasons = {path: str(why["reason"]) for path, why in store.failures().items() if why.get("reason")}
    return Side(store, cells, done, reasons)


def _of_study(study: str, record: Row) -> Iterator[tuple[What, Row]]:
    """The title names the seed where a study has several; the images' own cells have none."""
    seeds = record["about"]["seeds"]
    alone = seeds[0] if len(seeds) == 1 else None
    for cell in record["cells"]:
        found = _SEED.search(cell["title"])
        seed = int(found[1]) if found else None if cell["table"] in _OF_IMAGES else alone
        yield (study, cell["table"], seed, _SEED.sub("", cell["title"])), cell
