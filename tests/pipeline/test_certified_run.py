"""The step certify of a tiny study: which networks and images, priced, resumed, equal for any worker."""

import pytest
from conftest import Silence, run_study, tiny_study

from harness.data.source import evenly
from harness.errors import HarnessError
from harness.evaluation.sandwich import FORWARDS, JUDGING_DRAWS
from harness.networks.classifier import Classifier
from harness.pipeline import certified
from harness.pipeline.recompute import recompute
from harness.pipeline.run import prepare, run_steps
from harness.report.database import connect, query
from harness.results.store import Store
from harness.study.costs import Quote, extent
from harness.study.rates import Rate, Rates
from harness.study.reading import build

CERTIFY = {
    "selection_draws": 20, "certification_draws": 60, "radii": [0.1, 0.2], "images": 30, "sandwich": 3
}  # fmt: skip
COLUMNS = ("image_id", "label", "prediction", "top_count", "radius", "attacked_l2", "attacked_draws")


def study(**certify):
    return {**tiny_study(), "defenses": {}, "attacks": {"fgsm": {"epsilon": [0.1]}}, "batch_size": 64,
            "certify": {**CERTIFY, **certify}}  # fmt: skip


def rows_of(run):
    (planned,) = run.plan.certified
    table = run.store.read(planned.cell)
    return {name: table[name].to_pylist() for name in (*COLUMNS, "noise_sd", "certification_draws")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_study(study(), tmp_path_factory.mktemp("certified"))


def test_images_are_taken_evenly_and_some_are_attacked(run):
    assert not run.failed and not run.missing(run.plan.cells())
    rows = rows_of(run)
    ids = run.dataset.test.ids
    assert rows["image_id"] == [int(ids[position]) for position in evenly(40, 30)]
    may_be_attacked = {int(ids[evenly(40, 30)[index]]) for index in (0, 14, 29)}
    attacked = {image for image, draws in zip(rows["image_id"], rows["attacked_draws"], strict=True) if draws}
    abstaining = {image for image, said in zip(rows["image_id"], rows["prediction"], strict=True) if said < 0}
    assert attacked == may_be_attacked - abstaining
    assert set(rows["attacked_draws"]) <= {None, JUDGING_DRAWS} and set(rows["noise_sd"]) == {0.25}


def test_the_views_and_the_radii_asked_for(run):
    with connect(run.store) as connection:
        shares = query(connection, "from certified_accuracy").to_pylist()
        judged = query(connection, "from sandwich").to_pylist()
    assert [row["certified_radius"] for row in shares] == [0.1, 0.2]
    assert shares[0]["accuracy"] >= shares[1]["accuracy"] and shares[0]["images"] == 30
    assert all(row["verdict"] == "pass" for row in judged)


def test_blocks_change_nothing(run, tmp_path, monkeypatch):
    """As many blocks as images: what is killed and resumed, or spread over workers, is the same."""
    monkeypatch.setattr(certified, "_IMAGES_PER_BLOCK", 7)
    assert rows_of(run_study(study(), tmp_path)) == rows_of(run)


def test_verification_makes_the_same_again(run):
    found = [each for each in recompute(run.store, 30, 0, None, 0) if each.title.startswith("certified")]
    assert [len(each.differences) for each in found] == [0]


def test_the_price_counts_the_cells_and_the_draws(run):
    rates = Rates({}, {}, Rate(1 / 100), "given")
    price = certified.WORK["certify"].price(Quote(run.plan, extent(run.study, None), rates, None))
    forwards = 30 * (20 + 60) + 3 * FORWARDS
    assert (price.cells, price.seconds) == (1, pytest.approx(forwards / 100))


@pytest.mark.ray
def test_workers_change_nothing(run, tmp_path, ray_session):
    other = prepare(build({**study(), "compute": {"workers": 2}}), Store(tmp_path), None, Silence())
    run_steps(other, ("base-network", "certify"))
    assert rows_of(other) == rows_of(run)


def test_other_radii_make_nothing_anew_and_the_number_of_draws_does(run):
    (cell,) = [planned.cell for planned in run.plan.certified]
    again = prepare(build(study(radii=[0.3])), run.store, None, run.progress)
    assert [planned.cell.key for planned in again.plan.certified] == [cell.key]
    assert not again.missing(again.plan.cells())
    more = prepare(build(study(certification_draws=61)), run.store, None, run.progress)
    assert len(more.missing(more.plan.cells())) == 1


def test_a_network_that_draws_is_a_failed_cell_with_its_reason(tmp_path, monkeypatch):
    forward = Classifier.forward

    def drawing(self, images):
        logits = forward(self, images)
        return logits if self.training else logits + logits.std() * logits.new_empty(logits.shape).normal_()

    run = prepare(build(study()), Store(tmp_path), None, Silence())
    monkeypatch.setattr(Classifier, "forward", drawing)
    run_steps(run, ("base-network", "certify"))
    (reason,) = [failed.reason for failed in run.failed.values()]
    assert reason.startswith("expected a deterministic network, got one that draws at random")


def test_nothing_is_certified_unless_asked_for(tmp_path):
    data = {name: value for name, value in study().items() if name != "certify"}
    assert build(data).certify is None


@pytest.mark.parametrize(
    ("certify", "mistake"),
    [
        ({"alpha": 0}, "certify.alpha"),
        ({"alpha": 1.0}, "certify.alpha"),
        ({"noise_sd": 0}, "certify.noise_sd"),
        ({"certification_draws": 10, "radii": [0.1]}, "10 draws certify an l2 radius of 0.000744 at most"),
        ({"networks": ["bsae"]}, "unknown network 'bsae'; did you mean 'base'?"),
    ],
)
def test_mistakes(certify, mistake):
    with pytest.raises(HarnessError, match=mistake.replace("(", "\\(").replace("?", "\\?")):
        build(study(**certify))
