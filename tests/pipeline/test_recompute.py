"""Finished cells made again: equal where nothing was changed, and what was changed is found though every
checksum fits.
"""

import shutil

import numpy as np
import pytest
from conftest import run_study, tiny_study

from harness.data import datasets
from harness.errors import HarnessError
from harness.pipeline.recompute import differences, recompute
from harness.pipeline.run import Silent, prepare, run_steps
from harness.results.cells import hardware
from harness.results.store import Store
from harness.results.verification import verify
from harness.study.reading import build


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_study(tiny_study(), tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.store.root, tmp_path / "copy")
    return Store(tmp_path / "copy")


def findings(store, count=100, seed=0, study=None):
    return {
        finding.title: finding.differences for finding in recompute(store, count, seed, None, None, study)
    }


def test_every_cell_made_again_is_equal(finished):
    found = findings(finished.store)
    assert len(found) == 32
    assert set(found.values()) == {()}


def test_a_bound_is_made_again_without_the_weights(tmp_path):
    """VGG16's ImageNet weights are not there: the bound was made without them, and is made again so."""
    network = {"architecture": "vgg16", "pretrained": True, "weights": str(tmp_path / "none.safetensors")}
    study, store = build({**tiny_study(), "network": network}), Store(tmp_path / "results")
    run_steps(prepare(study, store, None, Silent(), ("bound",)), ("bound",))
    titles = ("bound of the train images", "bound of the test images", "names of the classes")
    assert findings(store) == dict.fromkeys([*titles, "pictures of 40 test images"], ())


def test_what_is_recorded_of_a_study_stays(copy):
    """Made again by fewer workers than the study names."""
    study = build({**tiny_study(), "compute": {"workers": 2}})
    prepare(study, copy, None, Silent())
    before = copy.studies()
    assert before["tiny"]["study"]["compute"]["workers"] == 2
    assert [finding.differences for finding in recompute(copy, 1, 0, None, workers=0)] == [()]
    assert copy.studies() == before


def test_the_sample_follows_from_the_seed(finished):
    first, again, other = (findings(finished.store, 3, seed) for seed in (1, 1, 2))
    assert len(first) == 3
    assert list(first) == list(again) != list(other)


def rewrite(store, cell, change, tensors=None):
    """Write a cell again with other values: whole, with checksums that fit."""
    rows = {name: store.read(cell)[name].to_pylist() for name in store.read(cell).column_names}
    change(rows)
    store.remove(cell.path)
    store.write(cell, rows, tensors, **hardware())


def test_a_wrong_number_is_found(finished, copy):
    def change(rows):
        rows["prediction"][3] = 9 - rows["prediction"][3]

    rewrite(copy, finished.plan.black_box[2].cell, change)
    assert [damage for _, damage in verify(copy) if damage] == []
    found = findings(copy)
    assert {title: what for title, what in found.items() if what} == {
        "base against fgsm 0.3": ("prediction: 1 of 40 rows",)
    }


def test_wrong_weights_are_found(finished, copy):
    cell = finished.plan.defended[0].cell
    tensors = {name: value.copy() for name, value in copy.tensors(cell).items()}
    name = sorted(tensors)[0]
    tensors[name].reshape(-1)[0] += 1
    rewrite(copy, cell, lambda rows: None, tensors)
    size = tensors[name].size
    wrong = {title: what for title, what in findings(copy).items() if what}
    assert wrong["imperceptible bound k=1 n=2"] == (f"tensor {name}: 1 of {size} values, by up to 1",)
    # What was made from the old weights says so even without being made again.
    reasons = [damage for _, damage in verify(copy) if damage]
    assert len(reasons) >= 4 and all("was made from another" in reason for reason in reasons)


def test_other_data_are_refused(finished, monkeypatch):
    monkeypatch.setattr(datasets, "fingerprint", lambda *_: "other")
    with pytest.raises(HarnessError, match="cannot be made again from them"):
        findings(finished.store, 1)


def test_bit_for_bit_is_meant(finished, copy):
    """The last bit of one weight."""
    cell = finished.plan.bases[0].cell
    tensors = {name: value.copy() for name, value in copy.tensors(cell).items()}
    name = sorted(tensors)[0]
    flat = tensors[name].reshape(-1)
    flat[0] = np.nextafter(flat[0], np.float32(2))
    rewrite(copy, cell, lambda rows: None, tensors)
    assert differences(cell, finished.store, cell, copy)[0].startswith(
        f"tensor {name}: 1 of {flat.size} values"
    )
