"""What is exported is what is stored: tensors bit for bit, tables and views value for value."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import call, refused
from conftest import run_study, tiny_study

from harness.report.database import connect, query
from harness.report.export import _plain
from harness.report.tables import laid_out
from harness.results.cells import tensors_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    study = tiny_study()
    study["white_box"] = {**study["white_box"], "keep_images": True}
    return run_study(study, tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def out(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "exported"
    code, said = call("export", "tiny", "--out", out, "--results", finished.store.root)
    assert code == 0 and said.startswith(f"{out}: 8 files of images, ")
    return out


def test_images_are_those_of_the_cells(finished, out):
    """Three attacks on the base network's test images, one on training images, four in the white box."""
    listed = json.loads((out / "images.json").read_text())
    attacks = [cell for attack in finished.plan.attacks for cell in attack.cells]
    assert len(listed) == 8 == len(list((out / "images").iterdir()))
    assert [each["file"] for each in listed][:3] == [
        "images/base-fgsm-0.1-train-seed0.pt",
        "images/base-fgsm-0.1-test-seed0.pt",
        "images/base-fgsm-0.3-test-seed0.pt",
    ]
    for each, cell in zip(listed, attacks, strict=False):
        loaded = torch.load(out / each["file"], weights_only=True)
        stored, rows = finished.store.tensors(cell)["adversarial"], finished.store.read(cell)
        assert loaded.keys() == {"adv_complete", "labels", "ids"}
        assert loaded["adv_complete"].dtype == torch.float32 and list(stored.shape) == each["shape"]
        assert np.array_equal(loaded["adv_complete"].numpy(), stored)
        assert loaded["adv_complete"].min() >= 0 and loaded["adv_complete"].max() <= 1
        assert loaded["labels"].dtype == loaded["ids"].dtype == torch.int64
        assert loaded["labels"].tolist() == rows["label"].to_pylist()
        assert loaded["ids"].tolist() == rows["image_id"].to_pylist()
        assert each["attack"] == cell.partition["attack"] and each["epsilon"] == cell.columns["epsilon"]
        assert each["split"] == cell.partition["split"] and each["name"] == "base"


def test_images_of_the_white_box_say_whose(finished, out):
    cells = finished.plan.white_box_cells()
    listed = json.loads((out / "images.json").read_text())[-len(cells) :]
    assert len(cells) == 4
    for each, cell in zip(listed, cells, strict=True):
        assert (each["name"], each["step_size"]) == (cell.columns["name"], cell.columns["step_size"])
        loaded = torch.load(out / each["file"], weights_only=True)
        assert np.array_equal(loaded["adv_complete"].numpy(), finished.store.tensors(cell)["adversarial"])


def test_tables_and_views_are_those_of_the_report(finished, out):
    with connect(finished.store, "tiny") as connection:
        tables = laid_out(connection)
        views = {path.stem: json.loads(path.read_text()) for path in (out / "views").iterdir()}
        for name, view in views.items():
            answer = query(connection, f'from "{name}"')
            assert view["rows"] == _plain(answer.to_pylist()), name
            assert [column["column"] for column in view["columns"]] == answer.column_names
            assert all(column["meaning"] for column in view["columns"])
    assert {"ranking", "seeds", "robust", "table2"} <= views.keys()
    printed = [each for path in (out / "tables").iterdir() for each in json.loads(path.read_text())]
    assert sorted(each["title"] for each in printed) == sorted(table.title for table in tables)
    rows = {each["title"]: each["rows"] for each in printed}
    assert all(rows[table.title] == [list(line) for line in table.rows] for table in tables)


def test_exported_again_the_bytes_are_the_same(finished, out, tmp_path):
    assert call("export", "--out", tmp_path, "--results", finished.store.root)[0] == 0
    first, again = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (out, tmp_path)
    )
    assert first.keys() == again.keys()
    assert [path for path in first if first[path] != again[path]] == []


def test_what_json_has_no_number_for():
    values = {"a": [float("inf"), 1.5, None], "b": float("nan"), "c": 100 / 3, "d": 12_345_678_901}
    assert _plain(values) == {"a": ["inf", 1.5, None], "b": "nan", "c": 33.3333333, "d": 12_345_678_901}


def test_reading_needs_no_torch():
    code = "import sys; import harness.report.export; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_mistakes(finished, tmp_path):
    options = ("--out", tmp_path / "x", "--results", finished.store.root)
    assert "no study 'tiy'" in refused("export", "tiy", *options) and not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    said = refused("export", "--out", tmp_path / "file" / "below", "--results", finished.store.root)
    assert "cannot be written: Not a directory" in said
    cell = finished.plan.attacks[0].cells[0]
    path = finished.store.root / tensors_path(cell.path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "its digest is not the one recorded" in refused("export", *options)
    path.write_bytes(whole)
