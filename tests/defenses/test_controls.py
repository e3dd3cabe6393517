"""Controls of the bound's defense: losses by hand, and the very images that the defense sees."""

import pytest
import torch
from conftest import images
from trained import Answering, inputs, train, weights

from harness.defenses.controls import NoiseLabels, NoNoise
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.networks.objective import Needs


@pytest.fixture
def data():
    return images(0, 40, 3, shape=(1, 6, 6))


@pytest.fixture
def given(data):
    outputs = torch.log_softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), 1)
    return inputs(data, distance=torch.linspace(0, 0.2, 40), base_outputs=outputs)


def drawn(count):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def shown(objective, indices, epoch=1):
    """The images of a step."""
    seen = Answering(lambda x: torch.zeros(len(x), 3))
    objective.loss(seen, indices, epoch)
    return seen.images


def test_no_noise_is_kl_of_f1_to_f2_on_clean_images(given):
    objective, everything = NoNoise(n=2).objective(given, 7), torch.arange(80)
    assert objective.samples == 80
    logits = drawn(80)
    p, q = given.base_outputs.exp().repeat(2, 1), torch.softmax(logits, 1)
    expected = (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(objective.loss(Answering(lambda _: logits), everything, 1), expected, atol=1e-6)
    assert torch.equal(shown(objective, everything), given.clean(torch.arange(40)).repeat(2, 1, 1, 1))


def test_no_noise_is_the_defense_without_its_noise(given, data):
    """The same samples, losses and, in the same order, weights as the defense's own where sigma is 0."""
    still = inputs(data, distance=torch.zeros(40), base_outputs=given.base_outputs)
    defense = ImperceptibleBound(k=1.0, n=3, epochs=2, batch_size=16)
    control = NoNoise(n=3, epochs=2, batch_size=16)
    ours, theirs = (train(data, each, each.objective(still, 7)) for each in (control, defense))
    assert [row["loss"] for row in ours.rows] == [row["loss"] for row in theirs.rows]
    assert all((a == b).all() for a, b in zip(weights(ours), weights(theirs), strict=True))


def test_noise_with_labels_is_cross_entropy(given):
    objective, everything = NoiseLabels(k=2.0, n=2).objective(given, 7), torch.arange(80)
    logits = drawn(80)
    expected = -torch.log_softmax(logits, 1)[torch.arange(80), given.labels.repeat(2)]
    assert torch.allclose(objective.loss(Answering(lambda _: logits), everything, 1), expected, atol=1e-6)


@pytest.mark.parametrize("redraw", [False, True])
def test_noise_with_labels_sees_the_defenses_images(given, redraw):
    settings = {"k": 2.0, "n": 3, "redraw": redraw}
    defense, control = ImperceptibleBound(**settings), NoiseLabels(**settings)
    assert control.draws("any_class") == defense.draws("any_class")
    ours, theirs = control.objective(given, 7), defense.objective(given, 7)
    everything = torch.arange(120)
    assert ours.samples == theirs.samples == 120
    for epoch in (1, 2):
        assert torch.equal(shown(ours, everything, epoch), shown(theirs, everything, epoch))


def test_what_they_declare():
    assert NoNoise(n=3).needs() == Needs(base_outputs=True)
    assert NoiseLabels(k=1.0, n=3).needs() == Needs(bound=True)
    assert NoNoise(n=3).samples_per_image == NoiseLabels(k=1.0, n=3).samples_per_image == 3
    assert NoNoise(n=3).columns() == {"n": 3}
    assert NoiseLabels(k=1.0, n=3).columns() == {"k": 1.0, "n": 3}
    assert {NoNoise(n=3).step, NoiseLabels(k=1.0, n=3).step} == {"baselines"}
    grid = NoNoise.model_validate_json('{"n": [3, 4]}')
    assert [one.label() for one in grid.expanded()] == ["n=3", "n=4"]
