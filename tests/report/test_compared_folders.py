"""Two folders of results: what was changed by hand is found, counted, and put down to what was changed."""

import copy as copying
import csv
import io
import json
import shutil
from typing import Any

import pytest
from commands import call, refused
from conftest import run_study, tiny_study

from harness.errors import Failed
from harness.report.comparison.causes import UNKNOWN, Cause, likely
from harness.report.comparison.folders import Folders, folders
from harness.results.cells import Cell, hardware
from harness.results.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_study(tiny_study(), tmp_path_factory.mktemp("finished"))


@pytest.fixture
def store(finished, tmp_path) -> Store:
    shutil.copytree(finished.store.root, tmp_path / "b")
    return Store(tmp_path / "b")


def compared(finished, store: Store, study: str | None = None) -> Folders:
    return folders(finished.store, store, study)


def rewrite(store: Store, cell: Cell, wrong: int = 0, tensors: Any = None, **facts: Any) -> None:
    """Write a cell again, so many of its predictions others, as if made with or on something else."""
    rows = {name: store.read(cell)[name].to_pylist() for name in store.read(cell).column_names}
    for place in range(wrong):
        rows["prediction"][place] = (rows["prediction"][place] + 1) % 10
    store.remove(cell.path)
    store.write(cell, rows, tensors, **{**hardware(), **facts})


def upgraded() -> dict[str, Any]:
    return {"versions": {**hardware()["versions"], "torch": "99.0"}}


def causes(found: Folders) -> dict[str, list[tuple[str, str, bool]]]:
    return {
        each.what[3]: [(cause.kind, cause.words, cause.is_own) for cause in each.causes]
        for each in found.different
    }


def test_a_copy_is_equal(finished, store):
    code, said = call("compare", finished.store.root, store.root)
    words = "a: 32 cells, b: 32; 32 have equal values, 0 differ, 0 are in one alone"
    assert (code, said) == (0, f"equal: {words}\n")


def test_an_upgrade_is_one_line(finished, store):
    """Of three cells; what it does to the accuracies is counted from the rows."""
    cells = [tested.cell for tested in finished.plan.black_box[:4]]
    before = [finished.store.read(cell) for cell in cells]
    for wrong, cell in enumerate(cells):
        rewrite(store, cell, wrong, **upgraded())
    torch = hardware()["versions"]["torch"]
    found = compared(finished, store)
    words = [("versions", f"torch {torch} -> 99.0", True)]
    assert causes(found) == {cell.title: words for cell in cells[1:]}  # the first has equal values
    code, said = call("compare", finished.store.root, store.root, "--format", "md")
    assert code == 1 and "29 have equal values, 3 differ, 0 are in one alone" in said
    (line,) = [line for line in said.splitlines() if line.startswith("| versions |")]
    assert line.startswith(f"| versions | torch {torch} -> 99.0 | 3 | 3 | prediction | {cells[1].title}; ")
    for wrong, cell in list(enumerate(cells))[1:]:
        rows = before[wrong]
        hits = [
            a == b for a, b in zip(rows["prediction"].to_pylist(), rows["label"].to_pylist(), strict=True)
        ]
        again = store.read(cell)
        after = sum(
            a == b for a, b in zip(again["prediction"].to_pylist(), again["label"].to_pylist(), strict=True)
        )
        if after != sum(hits):
            shown = f"| {100 * sum(hits) / 40:.1f} | {100 * after / 40:.1f} |"
            assert shown in said, cell.title


def test_a_setting_explains_what_was_made_from_it(finished, tmp_path):
    base = {**tiny_study()["base"], "epochs": 4}
    other = run_study({**tiny_study(), "base": base}, tmp_path / "other").store
    found = compared(finished, other)
    assert len(found.both) == 32 and not found.one_sided
    words = {each.words for different in found.different for each in different.causes}
    assert words == {"training.epochs: 3 -> 4"}
    own = [each.what[3] for each in found.different if any(cause.is_own for cause in each.causes)]
    assert own == ["base"] and len(found.different) > 10
    titles = {each.what[3] for each in found.different}
    assert not titles & {"bound of the train images", "bound of the test images"}
    code, said = call("compare", finished.store.root, other.root)
    assert code == 1 and "4 have equal values, 28 differ" in said and "training.epochs: 3 -> 4" in said


def test_nothing_recorded_differs(finished, store):
    cell = finished.plan.black_box[2].cell
    rewrite(store, cell, 2)
    assert causes(compared(finished, store)) == {cell.title: [("unknown", UNKNOWN, True)]}


def test_another_machine_explains_what_its_weights_did(finished, store):
    base, tested = finished.plan.bases[0].cell, finished.plan.black_box[1].cell
    weights = {name: 1.5 * value for name, value in store.tensors(base).items()}
    rewrite(store, base, 0, weights, machine="arm64", cores=1)
    rewrite(store, tested, 1)
    found = causes(compared(finished, store))
    assert [(kind, is_own) for kind, _, is_own in found["base"]] == [("device", True)] * 2
    assert ("device", f"machine: {hardware()['machine']} -> arm64", False) in found[tested.title]
    assert compared(finished, store).different[0].columns == {"weights": "others"}


def test_cells_of_one_side(finished, store):
    first, second = finished.plan.black_box[0].cell, finished.plan.black_box[1].cell
    for cell in (first, second):
        store.remove(cell.path)
    store.record_failure(second, Failed("no memory"))
    record = json.loads((store.root / "studies" / "tiny.json").read_text())
    third = finished.plan.black_box[2].cell
    record["cells"] = [cell for cell in record["cells"] if cell["key"] != third.key]
    (store.root / "studies" / "tiny.json").write_text(json.dumps(record))
    found = {what[3]: (side, state) for side, what, state in compared(finished, store).one_sided}
    assert found == {
        first.title: ("a", "not made yet"),
        second.title: ("a", "no memory"),
        third.title: ("a", "not planned"),
    }
    code, said = call("compare", store.root, finished.store.root, "--format", "csv")
    assert code == 1
    block = said.split("# one_side\n")[1].split("\n\n")[0]
    assert {row["in"] for row in csv.DictReader(io.StringIO(block))} == {"b"}


def test_cells_are_told_by_seed_however_many_there_are(finished, store):
    """One seed, of which titles say nothing; three, of which they do."""
    path = store.root / "studies" / "tiny.json"
    record = json.loads(path.read_text())
    record["about"]["seeds"] = [0, 1, 2]
    for cell in record["cells"]:
        cell["title"] += "" if cell["table"] in ("bound", "classes", "sample") else " (seed 0)"
    path.write_text(json.dumps(record))
    found = compared(finished, store)
    assert len(found.both) == 32 and not found.different and not found.one_sided


def test_studies_of_other_names(finished, store):
    """One study on each side is compared whatever it is called; a damaged file is a mistake."""
    (store.root / "studies" / "tiny.json").rename(store.root / "studies" / "again.json")
    cell = finished.plan.black_box[0].cell
    rewrite(store, cell, 40)
    found = compared(finished, store)
    assert found.studies == {"tiny": "again"} and [each.what[3] for each in found.different] == [cell.title]
    assert "Clean" in call("compare", finished.store.root, store.root)[1]
    assert "no study 'tiny'" in refused("compare", finished.store.root, store.root, "--study", "tiny")
    path = store.root / cell.path
    path.write_bytes(path.read_bytes()[:-9])
    assert str(cell.path) in refused("compare", finished.store.root, store.root)


def test_no_study_in_common(finished, store):
    studies = store.root / "studies"
    for name in ("one", "two"):
        shutil.copy(studies / "tiny.json", studies / f"{name}.json")
    (studies / "tiny.json").unlink()
    said = refused("compare", finished.store.root, store.root)
    assert "no study is in both" in said and "(tiny)" in said and "(one, two)" in said


# --- causes, of what is kept beside a cell ------------------------------------------------------------------


def meta() -> dict[str, Any]:
    return {
        "columns": {"name": "base", "network": "0f", "settings": "{}", "epsilon": 0.1},
        "spec": {
            "training": {"epochs": 3},
            "data": {"fingerprint": "ab" * 32},
            "code": {"mine": "cd" * 32},
        },
        "facts": {
            "machine": "x86_64",
            "cores": 2,
            "python": "3.11",
            "versions": {"torch": "2.7", "numpy": "2"},
        },
    }


def other(change) -> dict[str, Any]:
    changed = copying.deepcopy(meta())
    change(changed)
    return changed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["spec"]["training"].update(epochs=4), [("settings", "training.epochs: 3 -> 4")]),
        (lambda m: m["spec"].update(new=True), [("settings", "new: none -> True")]),
        (lambda m: m["columns"].update(epsilon=0.2), [("settings", "epsilon: 0.1 -> 0.2")]),
        (lambda m: m["columns"].update(network="1f", settings="{1}"), [("unknown", UNKNOWN)]),
        (lambda m: m["spec"]["code"].update(mine="ef" * 32), [("code", "code.mine: cdcdcdcd -> efefefef")]),
        (lambda m: m["spec"].update(revision=1), [("code", "revision: none -> 1")]),
        (
            lambda m: m["spec"]["data"].update(fingerprint="01" * 32),
            [("data", "data.fingerprint: abababab -> 01010101")],
        ),
        (
            lambda m: m["facts"].update(versions={"torch": "2.8", "numpy": "2"}, python="3.12"),
            [("versions", "python 3.11 -> 3.12"), ("versions", "torch 2.7 -> 2.8")],
        ),
        (lambda m: m["facts"].update(gpus=["H100"]), [("device", "gpus: none -> ['H100']")]),
        (lambda m: None, [("unknown", UNKNOWN)]),
    ],
)
def test_a_change_is_named(change, expected):
    found = likely((meta(), other(change)), [])
    assert [(cause.kind, cause.words) for cause in found] == expected


def test_what_was_asked_for_goes_before_versions():
    """Also where it was asked of a cell that this one was made from; but a cell's own comes first."""
    upgraded = other(lambda m: m["facts"]["versions"].update(torch="2.8"))
    inherited = (Cause("settings", "training.epochs: 3 -> 4"),)
    assert likely((meta(), upgraded), [inherited]) == (
        Cause("settings", "training.epochs: 3 -> 4", is_own=False),
    )
    assert likely((meta(), upgraded), [(Cause("device", "cores: 2 -> 4"),)])[0].kind == "versions"
    own = other(lambda m: m["spec"].update(steps=7))
    assert likely((meta(), own), [inherited]) == (Cause("settings", "steps: none -> 7"),)
