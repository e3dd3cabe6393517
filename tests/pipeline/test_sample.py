"""Pictures of test images: which they are, and that they are the data's own."""

import hashlib
import io

import numpy as np
import pytest
from conftest import tiny_study
from PIL import Image

from harness.data.encoded import png
from harness.pipeline.run import Silent, prepare, run_steps
from harness.results.store import Store
from harness.study.plan import plan
from harness.study.reading import build


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    study = build({**tiny_study(), "pictures": 5})
    run = prepare(study, Store(tmp_path_factory.mktemp("sample")), None, Silent(), ("bound",))
    assert run_steps(run, ("bound",)) == 4
    return run


def values(content: bytes) -> np.ndarray:
    array = np.asarray(Image.open(io.BytesIO(content)))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def test_the_classes_are_named_as_the_data_name_them(run):
    rows = run.store.read(run.plan.classes).to_pylist()
    assert [(row["label"], row["class_name"]) for row in rows] == [*enumerate("0123456789")]


def test_pictures_are_the_datas_own_with_the_bounds_neighbours(run):
    rows = run.store.read(run.plan.sample).to_pylist()
    bound = run.store.read(run.plan.bounds["test"]).to_pylist()
    assert len(rows) == 3 * 5
    for row in rows:
        itself = row["picture"] == "image"
        images = run.dataset.test if itself else run.dataset.train
        (position,) = np.flatnonzero(images.ids == row["picture_id"])
        pixels = images.pixels[position]
        assert (values(row["png"]) == pixels).all() and row["label"] == images.labels[position]
        assert row["pixels"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        if itself:
            assert (row["picture_id"], row["distance"]) == (row["image_id"], 0)
        else:
            (found,) = (
                b for b in bound if (b["neighbours"], b["image_id"]) == (row["picture"], row["image_id"])
            )
            assert (row["picture_id"], row["distance"]) == (found["neighbour_id"], found["distance"])


def test_pictures_are_spread_evenly_over_the_ranks_of_sigma(run):
    bound = run.store.read(run.plan.bounds["test"]).to_pylist()
    ranked = sorted((row["distance"], row["image_id"]) for row in bound if row["neighbours"] == "other_class")
    rows = run.store.read(run.plan.sample).to_pylist()
    chosen = [row["image_id"] for row in rows if row["picture"] == "image"]
    assert chosen == [ranked[rank][1] for rank in (0, 10, 20, 29, 39)]


def test_a_study_may_keep_none():
    none = plan(build({**tiny_study(), "pictures": 0}), "f")
    assert none.sample is None and "sample" not in {cell.table for cell in none.cells()}


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 6)])
def test_png_loses_nothing(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert (values(png(pixels)) == pixels).all()
    assert png(pixels) == png(pixels.copy())
