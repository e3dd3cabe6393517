"""Checks of robustness: what is planted fails, what is honest passes, and each verdict is of what it says."""

from dataclasses import replace
from typing import Any

import honest
import numpy as np
import planted
import pytest
import torch
from scipy import stats
from torch import nn

from harness.checks.robustness import ROBUSTNESS_CHECKS, Case, check_network
from harness.checks.robustness.interface import outputs
from harness.checks.robustness.unit_test import Altered, heads_of, unit_test
from harness.checks.robustness.validity import Made, validity
from harness.checks.robustness.verdict import EVIDENCE, least_share, share
from harness.data import datasets
from harness.data.datasets import Dataset
from harness.data.subset import DatasetSpec
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.networks import ConvNet
from harness.networks.classifier import as_input
from harness.networks.training import TrainingSettings

IMAGES = 90  # every fourth test image
NAMES = {check.name for check in ROBUSTNESS_CHECKS}


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    torch.set_num_threads(1)
    return datasets.load(DatasetSpec(source="digits"), None)


@pytest.fixture(scope="module")
def networks(digits: Dataset) -> dict[str, nn.Module]:
    """The three of the ``quick`` preset's kind, trained shorter."""
    architecture = ConvNet(width=16)
    base = honest.base(digits, architecture, TrainingSettings(epochs=12, learning_rate=0.002, batch_size=64))
    bound = ImperceptibleBound(k=1.0, n=4, epochs=3, learning_rate=0.002, batch_size=64)
    pgd = PgdTraining(epsilon=0.1, epochs=8, learning_rate=0.002, batch_size=64)
    return {
        "base": base,
        "imperceptible_bound": honest.defended(digits, base, bound),
        "pgd_training": honest.pgd_trained(digits, architecture, pgd),
    }


@pytest.fixture(scope="module")
def case(digits: Dataset, networks: dict[str, nn.Module]) -> Case:
    """The base network's."""
    test = digits.test.take(slice(None, None, len(digits.test.ids) // IMAGES))
    x, labels, ids = (torch.from_numpy(np.array(a)) for a in (test.pixels, test.labels, test.ids))
    return Case(networks["base"], as_input(x), labels, ids, 0.1, 0, 128)


@pytest.fixture(scope="module")
def transfer(case: Case) -> torch.Tensor:
    return case.adversarial(torch.arange(len(case.ids)), case.pgd())


def verdicts(case: Case) -> dict[str, Any]:
    return {verdict.check: verdict for verdict in check_network(case)}


def failed(case: Case) -> set[str]:
    return {name for name, verdict in verdicts(case).items() if verdict.verdict == "fail"}


@pytest.mark.parametrize("name", ["base", "imperceptible_bound", "pgd_training"])
def test_honest_networks_pass(name: str, case: Case, networks: Any, transfer: torch.Tensor) -> None:
    made = verdicts(replace(case, network=networks[name], transfer=None if name == "base" else transfer))
    assert made.keys() == NAMES
    unjudged = {check for check, verdict in made.items() if verdict.verdict == "none"}
    assert unjudged == ({"transfer"} if name == "base" else set())
    assert not [verdict for verdict in made.values() if verdict.verdict == "fail"]


FOUND_BY = {
    "x1000": {"zero gradient", "large epsilon", "square", "transfer", "unit test"},
    "round 256": {"zero gradient", "finite difference", "large epsilon", "square", "transfer", "unit test"},
    "noise .1": {"finite difference"},
    "softmax x10": {"outputs"},
    "shatter": {"finite difference", "large epsilon", "square", "transfer", "unit test"},
}


@pytest.mark.parametrize("name", FOUND_BY)
def test_planted_defenses_fail(name: str, case: Case, transfer: torch.Tensor) -> None:
    of = planted.NAMED[name](case.network)
    assert failed(replace(case, network=of, transfer=transfer)) >= FOUND_BY[name]


@pytest.mark.parametrize("name", ["x1000", "round 256", "shatter"])
def test_planted_on_a_robust_network_fail_twice(name: str, case: Case, networks: Any) -> None:
    """By its gradients, and by an attack without them: in case one line is evaded."""
    of = planted.NAMED[name](networks["pgd_training"])
    found = failed(replace(case, network=of))
    assert found & {"zero gradient", "finite difference"}
    assert found & {"square", "large epsilon", "unit test"}


QUICK = {"randomness", "company", "outputs", "zero gradient", "finite difference"}


@pytest.mark.parametrize("name", planted.HONEST)
def test_other_honest_networks_pass_what_is_quick(name: str, case: Case) -> None:
    assert quick(replace(case, network=planted.HONEST[name](case.network))) == {"pass"}


def test_an_ensemble_passes_what_is_quick(case: Case, networks: Any) -> None:
    assert quick(replace(case, network=planted.Mean(*networks.values()))) == {"pass"}


# What no look at gradients or outputs tells: attacks go a wrong way, or nowhere at the edge of [0, 1].
BY_ATTACKS = {"tanh x 10", "sigmoid", "clamped input", "winners"}
RIVALS = ("square", "transfer", "unit test")
OTHERS = sorted(planted.OTHERS.keys() - BY_ATTACKS)


@pytest.mark.parametrize("name", OTHERS)
def test_other_planted_defenses_are_told_by_what_is_quick(name: str, case: Case) -> None:
    assert "fail" in quick(replace(case, network=planted.OTHERS[name](case.network)))


@pytest.mark.parametrize("name", sorted(BY_ATTACKS))
def test_others_are_told_by_attacks_without_gradients(name: str, case: Case, transfer: torch.Tensor) -> None:
    of = replace(case, network=planted.OTHERS[name](case.network), transfer=transfer)
    rivals = [check.judge(of).verdict for check in ROBUSTNESS_CHECKS if check.name in RIVALS]
    assert "fail" in rivals


def quick(case: Case) -> set[str]:
    made = check_network(case, tuple(check for check in ROBUSTNESS_CHECKS if check.name in QUICK))
    return {verdict.verdict for verdict in made}


def test_a_network_without_gradients_says_which_checks_remain(case: Case, transfer: torch.Tensor) -> None:
    of = planted.OTHERS["detached"](case.network)
    made = verdicts(replace(case, network=of, transfer=transfer))
    assert made["zero gradient"].verdict == "fail"
    assert "transfer, Square" in made["zero gradient"].sentence
    assert {made[check.name].verdict for check in ROBUSTNESS_CHECKS if check.needs_gradient} == {"none"}
    assert made["square"].verdict == made["transfer"].verdict == "fail"


def test_a_network_that_draws_is_a_warning_and_repeats(case: Case) -> None:
    of = replace(case, network=planted.noisy(0.1)(case.network))
    once, again = check_network(of), check_network(replace(of))
    assert [each.statistic for each in once] == [each.statistic for each in again]
    by_name = {each.check: each for each in once}
    assert by_name["randomness"].verdict == "warn" and "20 draws" in by_name["randomness"].sentence
    assert by_name["company"].verdict == by_name["unit test"].verdict == "none"


def test_verdicts_do_not_depend_on_the_batch_size(case: Case) -> None:
    alone = replace(case, images=case.images[:60], labels=case.labels[:60], ids=case.ids[:60])
    large, small = (verdicts(replace(alone, batch_size=size)) for size in (60, 16))
    for name, verdict in large.items():
        other = small[name]
        assert (verdict.verdict, verdict.images) == (other.verdict, other.images)
        if verdict.statistic is not None:
            assert verdict.statistic == pytest.approx(other.statistic, abs=0.02)


def test_evidence_names_images(case: Case) -> None:
    made = verdicts(replace(case, network=planted.NAMED["x1000"](case.network)))["zero gradient"]
    assert made.statistic > 0.9
    assert 0 < len(made.evidence) <= EVIDENCE and set(made.evidence) <= set(case.ids.tolist())


def test_one_image_alone_is_no_failure(case: Case) -> None:
    few = replace(case, images=case.images[:1], labels=case.labels[:1], ids=case.ids[:1])
    assert not failed(replace(few, network=planted.NAMED["x1000"](case.network)))


@pytest.mark.parametrize(("count", "verdict"), [(1, "pass"), (2, "warn"), (8, "fail")])
def test_a_share_fails_beyond_chance(case: Case, count: int, verdict: str) -> None:
    """The threshold is 1 %, of some 90 images."""
    shown = torch.arange(IMAGES) < count
    assert share("of a test", case, torch.arange(IMAGES), shown, "at {}").verdict == verdict


@pytest.mark.parametrize(("count", "images"), [(0, 40), (4, 355), (8, 355), (64, 64)])
def test_least_share_is_wilsons(count: int, images: int) -> None:
    low = stats.binomtest(count, images).proportion_ci(method="wilson").low
    assert least_share(count, images) == pytest.approx(low, abs=1e-6)


def test_no_image_classified_correctly_is_no_verdict(case: Case) -> None:
    wrong = verdicts(replace(case, labels=(case.network(case.images).argmax(1) + 1) % 10))
    assert {wrong[name].verdict for name in NAMES - {"randomness", "company", "outputs"}} == {"none"}


# --- the unit test ----------------------------------------------------------------------------------------


def test_heads_have_a_known_adversarial_example(case: Case) -> None:
    """The clean image is of class 0 to every head; at a corner of the ball another answer is known."""
    at = case.right[:20]
    heads = heads_of(case, at)
    altered = Altered(case.network, heads)
    with torch.no_grad():
        clean = altered(case.images[at])
    assert heads.known.all()
    assert (clean.argmax(1) == 0).all()
    assert torch.allclose(heads.direction.norm(dim=1), torch.ones(20))


def test_a_linear_network_breaks_every_head(case: Case) -> None:
    """The largest value of w z in the ball is at the corner of the gradient's signs, where PGD ends."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(case.images[0].numel(), 10)).eval()
    labels = body(case.images).argmax(1)
    verdict = unit_test(replace(case, network=body, labels=labels))
    assert (verdict.verdict, verdict.statistic) == ("pass", 0.0)


# --- by hand ----------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """The logits of a table, whatever the images."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[: len(x)]


def test_outputs_by_hand(case: Case) -> None:
    of = replace(case, images=case.images[:2], labels=case.labels[:2], ids=case.ids[:2])
    sums = outputs(replace(of, network=Fixed(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))))
    assert sums.statistic == pytest.approx(2.0 / 1.0)  # sums 1 and 5: deviation 2, mean range 1
    assert sums.verdict == "pass"
    assert outputs(replace(of, network=Fixed(torch.tensor([[7.0, 3.0], [4.0, 6.0]])))).verdict == "fail"
    assert outputs(replace(of, network=Fixed(torch.tensor([[4.0, -4.0], [-1.0, 1.0]])))).verdict == "pass"


def test_validity_counts_what_is_planted(digits: Dataset) -> None:
    images = digits.test.take(slice(0, 6))
    sizes = {name: np.full(6, 0.1) for name in ("l0", "l1", "l2", "linf")}
    rows = {"image_id": images.ids, "label": images.labels, **sizes}
    assert validity([Made(images, rows, "linf", 0.1)]).verdict == "pass"
    far = {**rows, "linf": np.array([0.1, 0.11, 0.1, 0.1, 0.1, np.nan])}
    found = validity([Made(images, far, "linf", 0.1), Made(images, rows, "linf", 0.1)])
    assert (found.verdict, found.statistic, found.images) == ("fail", 2.0, 12)
    assert set(found.evidence) == {images.ids[1], images.ids[5]}
    assert validity([Made(images, {**rows, "label": rows["label"] + 1}, "linf", 0.1)]).statistic == 6
    assert validity([Made(images, {**rows, "image_id": rows["image_id"][::-1]}, "linf", None)]).statistic == 6
    kept = np.full((6, 1, 2, 2), 0.5, dtype=np.float32)
    kept[2, 0, 0, 0] = 1.0001
    kept[3, 0, 1, 1] = np.nan
    assert validity([Made(images, rows, "linf", 0.1, kept)]).evidence == tuple(images.ids[2:4].tolist())
