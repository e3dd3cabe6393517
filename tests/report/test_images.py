"""One image, from cells made by hand: every number of its passport can be counted."""

import csv
import io

import pytest
from click.testing import CliRunner
from handmade import BASE, CLEAN, FGSM, GRID, Study, attack_rows, bound_rows, fill, right, write_record
from measured import certified, clean, write

from harness.cli import main
from harness.results.cells import Cell
from harness.results.store import Store


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("images") / "results").open()
    fill(store, Study())
    return store


def told(results: Store, image: int, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["image", str(image), *words, "--results", str(results.root)])
    return done.exit_code, done.output


def blocks(results: Store, image: int) -> dict[str, list[dict[str, str]]]:
    """The tables of an image by name, as CSV has them."""
    code, output = told(results, image, "--format", "csv")
    assert code == 0, output
    parts = [block.split("\n", 1) for block in output.removeprefix("# ").split("\n# ")]
    return {name: list(csv.DictReader(io.StringIO(text))) for name, text in parts}


def test_the_bound_of_an_image(results):
    mine = blocks(results, 3)["bound"]
    rows = bound_rows(1)  # of the test images
    assert [row["nearest"] for row in mine] == ["of another class", "of any class"]
    for row, position in zip(mine, (3, 13), strict=True):
        distance = rows["distance"][position]
        assert float(row["distance"]) == pytest.approx(distance, rel=5e-3)
        for k in (1, 2, 2.5):
            assert float(row[f"sigma k={k:g}"]) == pytest.approx(distance / (2 * k), rel=5e-3)


def test_every_network_under_every_attack(results):
    study, mine = Study(), blocks(results, 7)["fates"]
    planned = list(study.evaluations())
    assert len(mine) == len(planned)
    found = {(row["network"], row["made on"], row["attack"], row["step"]): row for row in mine}
    assert len(found) == len(mine)
    for network, attack, seed, cell in planned:
        access = cell.partition["access"]
        made_on = {"clean": "", "black_box": "base", "white_box": "itself"}[access]
        step = f"{attack.step_size:.2g}" if attack.step_size else ""
        row = found[network.title, made_on, attack.title, step]
        is_right = right(network, attack, seed) > 7  # those before are right
        assert row["says"] == str(7 % 2 if is_right else 1 - 7 % 2)
        words = {True: "right", False: "wrong"} if attack == CLEAN else {True: "withstands", False: "fooled"}
        assert row["fate"] == words[is_right], row


def test_the_change_is_measured_by_the_images_own_sigma(results):
    study = Study()
    position = next(
        i for i, (_, split, a, _) in enumerate(study.attack_cells()) if (split, a) == ("test", FGSM[1])
    )
    change = attack_rows(position)["mean_l1"][7]
    sigma = bound_rows(1)["distance"][7] / 4  # k = 2
    for network in (BASE, GRID[0]):
        (row,) = (
            row
            for row in blocks(results, 7)["fates"]
            if (row["network"], row["attack"]) == (network.title, FGSM[1].title)
        )
        assert float(row["mean l1"]) == pytest.approx(change, rel=5e-3)
        assert float(row["change"]) == pytest.approx(change / sigma, rel=5e-2)


def test_certified_radii(tmp_path):
    store = Store(tmp_path / "r").open()
    radii = certified(BASE, [0.25, 0.5, 0.0], "110", 0.25)
    write(store, [clean(BASE, "110")], bound=[0.1, 0.2, 0.3], smoothed=[radii])
    (first,), (last,) = blocks(store, 1)["radii"], blocks(store, 2)["radii"]
    assert (first["smoothed network"], first["certified l2"], first["says"]) == ("base", "0.5", "1")
    assert last["says"] == "abstains"


def test_an_image_that_is_not_there_is_one_line(results, tmp_path):
    code, output = told(results, 99)
    assert code == 2 and output.count("\n") == 1
    assert "no test image 99 in study 'small': expected one of its 10 ids from 0 to 9" in output
    empty = Store(tmp_path / "r").open()
    write_record(empty, "small", Study().record())
    code, output = told(empty, 0)
    assert code == 2 and "no results of test images yet" in output


def test_classes_have_names_where_the_results_hold_them(tmp_path):
    store = Store(tmp_path / "r").open()
    fill(store, study := Study())
    assert {row["class"] for row in blocks(store, 3)["bound"]} == {"0"}
    cell = Cell("classes", {"dataset": study.dataset}, {}, {})
    store.write(cell, {"label": [0, 1], "class_name": ["cat", "1"]})
    record = study.record()
    named = {"key": cell.key, "table": "classes", "path": cell.path.as_posix(), "title": "", "step": "bound"}
    write_record(store, study.name, {**record, "cells": [*record["cells"], named]})
    assert {row["class"] for row in blocks(store, 3)["bound"]} == {"0 (cat)"}
    assert {row["says"] for row in blocks(store, 3)["fates"]} == {"0 (cat)", "1"}
