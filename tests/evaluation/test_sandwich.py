"""The sandwich of a linear network, whose smallest fooling change is its margin."""

import pytest
import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.evaluation.certified import Smoothing, certify
from harness.evaluation.sandwich import smallest_fooling
from harness.evaluation.smoothing import certify_block
from harness.networks.randomised import Expected

SD, ALPHA = 0.25, 0.001
SMOOTHING = Smoothing(SD, 200, 2000, ALPHA)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 1.5])


def linear(images: Tensor) -> Tensor:
    score = images.flatten(1) @ WEIGHTS - 0.5
    return torch.stack([-score, score], 1)


def constant(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([0.0, 1.0])


def points(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return images, linear(images).argmax(1), torch.arange(count) + 100


def found(network=linear, batch_size: int = 128) -> list[float | None]:
    return smallest_fooling(network, *points(), SMOOTHING, 5, batch_size)


def test_what_is_found_is_just_above_the_margin():
    images, _, _ = points()
    margins = (linear(images)[:, 1].abs() / WEIGHTS.norm()).tolist()
    for change, margin in zip(found(), margins, strict=True):
        assert margin < change < 1.25 * margin + 0.1


def test_a_certificate_is_below_what_is_found_and_twice_a_certificate_is_not():
    images, classes, ids = points()
    rows = certify(linear, images, classes, ids, SMOOTHING, 3, 500)
    pairs = [(row.radius, change) for row, change in zip(rows, found(), strict=True) if row.radius]
    assert pairs and all(radius < change for radius, change in pairs)
    assert any(2 * radius > change for radius, change in pairs)


def test_nothing_is_found_where_nothing_fools():
    assert found(constant) == [None] * 5


def test_batches_change_nothing():
    assert found(batch_size=33) == pytest.approx(found(batch_size=1000))


def test_a_network_that_draws_is_refused():
    smoothing = Smoothing(SD, 10, 100, ALPHA)
    with pytest.raises(HarnessError, match="expected a deterministic network, got one that draws"):
        certify_block(Expected(torch.nn.Identity(), 20), None, (), smoothing, 0, 8)
