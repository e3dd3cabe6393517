"""Certified radii against closed forms: a linear network's margin, the cap, an exact binomial bound."""

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from harness.errors import HarnessError
from harness.evaluation.certified import (
    ABSTAINS,
    Certificate,
    Smoothing,
    certify,
    largest_radius,
    lower_bound,
)

SD, ALPHA = 0.25, 0.001
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 1.5])


def linear(images: Tensor) -> Tensor:
    score = images.flatten(1) @ WEIGHTS - 0.5
    return torch.stack([-score, score], 1)


def constant(images: Tensor) -> Tensor:
    return torch.tensor([[0.0, 1.0]]).expand(len(images), 2)


def points(count: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) + 100


def certified(
    network=linear, images=None, ids=None, draws=2000, batch_size=512, selection=50
) -> list[Certificate]:
    if images is None:
        images, ids = points()
    return certify(
        network, images, torch.ones_like(ids), ids, Smoothing(SD, selection, draws, ALPHA), 3, batch_size
    )


def test_the_bound_is_clopper_pearsons():
    for count in (1, 500, 987, 1000):
        assert lower_bound(count, 1000, ALPHA) == pytest.approx(beta.ppf(ALPHA, count, 1001 - count))
    assert lower_bound(0, 1000, ALPHA) == 0


def test_a_linear_networks_radius_is_below_its_margin_and_close():
    images, ids = points()
    margins = (linear(images)[:, 1].abs() / WEIGHTS.norm()).tolist()
    # So many selection draws that none chooses the wrong class, where it would abstain.
    rows = certified(images=images, ids=ids, draws=20_000, batch_size=20_000, selection=5000)
    cap = largest_radius(SD, 20_000, ALPHA)
    for row, margin in zip(rows, margins, strict=True):
        assert row.radius <= margin
        assert row.radius >= min(margin, cap) - 0.04


def test_a_constant_network_is_certified_at_the_cap():
    assert {row.prediction for row in certified(constant)} == {1}
    assert all(row.radius == pytest.approx(largest_radius(SD, 2000, ALPHA)) for row in certified(constant))


def test_abstains_on_the_boundary():
    on_boundary = (0.5 * WEIGHTS / WEIGHTS.square().sum()).view(1, 1, 2, 2)
    row = certified(images=on_boundary, ids=torch.tensor([7]))[0]
    assert (row.prediction, row.radius) == (ABSTAINS, 0)


def test_batches_and_order_change_nothing():
    images, ids = points()
    whole = certified(images=images, ids=ids)
    assert certified(images=images, ids=ids, batch_size=37) == whole
    assert certified(images=images.flip(0), ids=ids.flip(0)) == whole[::-1]


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_alpha_must_be_a_probability(alpha):
    images, ids = points()
    with pytest.raises(HarnessError, match="alpha"):
        Smoothing(SD, 5, 5, alpha)
