"""The paper's defense, eq. 4-7: against closed forms."""

import numpy as np
import pytest
import torch
from conftest import images
from trained import CPU, Answering, inputs, network, train

from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.networks.classifier import logits as logits_of
from harness.networks.objective import Inputs, Needs
from harness.networks.training import TrainingSettings


@pytest.fixture
def data():
    return images(0, 40, 3, shape=(1, 6, 6))


@pytest.fixture
def defended(data):
    outputs = torch.log_softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), 1)
    distance = torch.linspace(0, 0.2, 40)
    return inputs(data, distance=distance, base_outputs=outputs)


def defense(**changes):
    return ImperceptibleBound(**{"k": 2.0, "n": 3, **changes})


def shown(objective, indices, epoch=1):
    """The images of a step."""
    seen = Answering(lambda x: torch.zeros(len(x), 3))
    objective.loss(seen, indices, epoch)
    return seen.images


def test_perturbations_have_the_bounds_spread(data):
    """Over many draws the noise of image i is N(0, d_i / (2 k)), and the mean image is the image."""
    distance = torch.linspace(0, 0.2, 40)
    given = inputs(data, distance=distance, base_outputs=torch.zeros(40, 3))
    objective = defense(n=400).objective(given, 7)
    assert objective.samples == 40 * 400
    x = shown(objective, torch.arange(40 * 400))
    noise = x.view(400, 40, -1) - (torch.from_numpy(data.pixels).float() / 255).view(1, 40, -1)
    sigma = distance / 4
    by_image = noise.transpose(0, 1).flatten(1)
    # 14,400 draws: standard error .6 %
    assert torch.allclose(by_image.std(1), sigma, rtol=0.03, atol=1e-7)
    assert (by_image.mean(1).abs() <= 5 * sigma / 120 + 1e-7).all()
    assert torch.equal(x[0], torch.from_numpy(data.pixels[0]).float() / 255)  # d = 0: no noise at all


def test_an_images_perturbations_come_back_every_epoch(defended):
    objective = defense().objective(defended, 7)
    everything = torch.arange(objective.samples)
    first, second = (shown(objective, everything, epoch) for epoch in (1, 2))
    assert torch.equal(first, second)
    assert torch.equal(first[[45]], shown(objective, torch.tensor([45])))
    # j = 0 and j = 1 of image 1 differ
    assert not torch.equal(first[1] - first[41], torch.zeros_like(first[1]))
    redrawn = defense(redraw=True).objective(defended, 7)
    again = [shown(redrawn, everything, epoch) for epoch in (1, 2)]
    assert torch.equal(again[0], first)
    assert not torch.equal(again[1][1], first[1])


def test_a_perturbation_belongs_to_the_image_not_its_position(defended):
    some = np.array([3, 17, 30])
    taken = Inputs(
        defended.pixels[some],
        defended.labels[some],
        defended.ids[some],
        distance=defended.distance[some],
        base_outputs=defended.base_outputs[some],
    )
    whole, part = defense().objective(defended, 7), defense().objective(taken, 7)
    for j in range(3):
        of_whole = shown(whole, torch.from_numpy(some) + 40 * j)
        assert torch.equal(of_whole, shown(part, torch.arange(3) + 3 * j))


def test_the_loss_is_kl_of_f1_to_f2(defended):
    objective, everything = defense().objective(defended, 7), torch.arange(80)
    logits = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    p, q = defended.base_outputs.exp().repeat(2, 1), torch.softmax(logits, 1)
    expected = (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(objective.loss(Answering(lambda _: logits), everything, 1), expected, atol=1e-6)
    same = Answering(lambda _: defended.base_outputs.repeat(2, 1))
    assert torch.allclose(objective.loss(same, everything, 1), torch.zeros(80), atol=1e-6)


def test_without_noise_f1_is_already_the_optimum(data):
    """sigma = 0 and f2 = f1: the loss is 0, and training from there stays there."""
    outputs = torch.log_softmax(torch.cat(list(logits_of(network(data), data.pixels, 40, CPU))), 1)
    given = inputs(data, distance=torch.zeros(40), base_outputs=outputs)
    run = train(data, TrainingSettings(epochs=1, learning_rate=0.001), defense().objective(given, 7))
    assert run.rows[1]["loss"] < 1e-4


def test_what_it_declares():
    settings = defense()
    assert settings.needs() == Needs(bound=True, base_outputs=True)
    assert settings.step == "defense"
    assert settings.columns() == {"k": 2.0, "n": 3}
    assert settings.label() == "k=2 n=3"
    assert settings.samples_per_image == 3
    assert settings.draws("other_class") == ("vib", "2.0", "3", "False", "'other_class'")
    grid = ImperceptibleBound.model_validate_json('{"k": [1, 2.5], "n": [10, 20]}')
    assert [one.label() for one in grid.expanded()] == ["k=1 n=10", "k=2.5 n=10", "k=1 n=20", "k=2.5 n=20"]
