"""Defenses with an inner attack, on problems with a known answer.

A linear network of two classes has logits w.x, and its worst image in an l-inf ball is a corner: known in
closed form where the ball lies within [0, 1].
"""

import pytest
import torch
from conftest import images
from torch.nn import functional as F
from trained import Shown, inputs, linear

from harness import seeds
from harness.defenses import DEFENSES
from harness.defenses.ensemble import Ensemble
from harness.defenses.inner import maximised, step_size_of
from harness.defenses.pgd_training import PgdTraining
from harness.defenses.trades import Trades
from harness.networks.objective import Needs

EPSILON, EVERYTHING = 0.1, torch.arange(30)


@pytest.fixture
def data():
    """Images between .2 and .8: no ball is cut."""
    made = images(0, 30, 2, shape=(1, 5, 5))
    made.pixels[:] = 51 + made.pixels.astype(int) * 153 // 255
    return made


def difference(network):
    """w_1 - w_0, as an image."""
    weight = network.body[1].weight.detach()
    return (weight[1] - weight[0]).view(1, 1, 5, 5)


def signs(labels):
    """+1 for class 1, -1 for class 0."""
    return (2.0 * labels - 1).view(-1, 1, 1, 1)


# --- PGD training ---


def test_pgd_training_minimises_the_robust_logistic_loss(data):
    """The largest log(1 + exp(-y w.x)) is log(1 + exp(epsilon |w|_1 - y w.x)), at x - epsilon y sign(w)."""
    network, given = linear(data, 1), inputs(data)
    seen, w, y = Shown(network), difference(network), signs(given.labels)
    losses = PgdTraining(epsilon=EPSILON).objective(given, 3).loss(seen, EVERYTHING, 1)
    clean = given.clean(EVERYTHING)
    assert torch.allclose(seen.images, clean - EPSILON * y * w.sign(), atol=1e-6)
    margin = (y * w * clean).flatten(1).sum(1)
    assert torch.allclose(losses, F.softplus(EPSILON * w.abs().sum() - margin), rtol=1e-4, atol=1e-5)
    losses.sum().backward()
    assert network.body[1].weight.grad.abs().sum() > 0


def test_pgd_starts_anywhere_in_the_ball_by_image_and_epoch(data):
    """A step too short to matter leaves the start: U(-epsilon, epsilon), an image's wherever it stands."""
    given = inputs(data)
    objective = PgdTraining(epsilon=EPSILON, steps=1, step_size=1e-9).objective(given, 3)

    def start(indices, epoch):
        seen = Shown(linear(data, 1))
        objective.loss(seen, indices, epoch)
        return seen.images - given.clean(indices)

    first = start(EVERYTHING, 1)
    assert first.abs().max() <= EPSILON + 1e-6
    assert first.std() == pytest.approx(EPSILON / 3**0.5, rel=0.05)  # 750 draws: standard error 1.6 %
    assert torch.allclose(start(torch.tensor([17, 4]), 1), first[[17, 4]])
    assert not torch.allclose(start(EVERYTHING, 2), first, atol=EPSILON / 10)
    expected = seeds.uniform(seeds.derive(3, "start"), given.ids, torch.full_like(given.ids, 2), 25)
    assert torch.allclose(start(EVERYTHING, 2).flatten(1), EPSILON * (2 * expected - 1), atol=1e-6)


def test_steps_stay_in_the_ball_and_in_the_range_of_images():
    clean = torch.rand(20, 3, 4, 4)
    target = torch.rand(20, 3, 4, 4)
    adversarial = maximised(lambda x: (x - target).square().flatten(1).sum(1), clean, clean, 0.3, 0.1, 10)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (adversarial - clean).abs().max() <= 0.3 + 1e-6
    corner = (clean + 0.3 * (clean - target).sign()).clamp(0, 1)
    assert torch.allclose(adversarial, corner, atol=1e-6)
    assert step_size_of(None, 0.2, 10) == pytest.approx(0.05)
    assert step_size_of(0.01, 0.2, 10) == 0.01


# --- TRADES ---


def test_trades_takes_the_divergence_at_the_corner_that_its_start_leans_to(data):
    """KL(f(x) || f(x')) grows with the logits' distance either way: uphill goes on as the start begins."""
    network, given = linear(data, 1), inputs(data)
    seen, w = Shown(network), difference(network)
    objective = Trades(epsilon=EPSILON, beta=4.0).objective(given, 3)
    losses = objective.loss(seen, EVERYTHING, 2)
    clean, moved = seen.images.chunk(2)
    assert torch.equal(clean, given.clean(EVERYTHING))
    start = seeds.normal(seeds.derive(3, "start"), given.ids, torch.full_like(given.ids, 2), 25)
    leans = (start.view_as(clean) * w).flatten(1).sum(1).sign().view(-1, 1, 1, 1)
    assert set(leans.flatten().tolist()) == {-1, 1}
    assert torch.allclose(moved, clean + EPSILON * leans * w.sign(), atol=1e-6)
    p = torch.sigmoid((clean * w).flatten(1).sum(1).double())
    q = torch.sigmoid((moved * w).flatten(1).sum(1).double())
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    natural = -torch.where(given.labels == 1, p, 1 - p).log()
    assert torch.allclose(losses.double(), natural + 4 * kl, rtol=1e-3, atol=1e-5)


def test_trades_gradient_goes_through_both_outputs(data):
    """As in the official code: the clean output is no constant target."""
    network, given = linear(data, 1), inputs(data)
    seen = Shown(network)
    Trades(epsilon=EPSILON, beta=4.0).objective(given, 3).loss(seen, EVERYTHING, 1).sum().backward()
    by_objective = network.body[1].weight.grad.clone()
    network.zero_grad()
    clean, moved = (network(part) for part in seen.images.chunk(2))
    kl = F.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="sum")
    (F.cross_entropy(clean, given.labels, reduction="sum") + 4 * kl).backward()
    assert torch.allclose(by_objective, network.body[1].weight.grad, rtol=1e-3, atol=1e-4)


# --- ensemble adversarial training ---


def test_ensemble_takes_each_networks_single_step_as_often(data):
    network, others = linear(data, 1), (linear(data, 2), linear(data, 3))
    given = inputs(data, other_bases=tuple(other.eval().requires_grad_(False) for other in others))
    objective, clean = Ensemble(epsilon=EPSILON).objective(given, 3), given.clean(EVERYTHING)
    corners = []
    for source in (network, *others):
        predicted = source(clean).argmax(1)  # not the label, which the image would then give away
        corners.append(clean - EPSILON * signs(predicted) * difference(source).sign())
    counts = [0, 0, 0]
    for epoch in range(1, 11):
        for batch in range(30):
            seen = Shown(network)
            seen.batch = batch
            losses = objective.loss(seen, EVERYTHING, epoch)
            first, second = seen.images.chunk(2)
            assert torch.equal(first, clean)
            (source,) = [s for s, corner in enumerate(corners) if torch.allclose(second, corner, atol=1e-6)]
            counts[source] += 1
            # Every rank draws the same, whatever its share.
            share = Shown(network)
            share.batch = batch
            objective.loss(share, EVERYTHING[1::2], epoch)
            assert torch.allclose(share.images.chunk(2)[1], second[1::2])
    assert sum(counts) == 300
    assert all(60 < count < 140 for count in counts)  # 100 each, 5 standard deviations of 8.2
    both = [F.cross_entropy(network(part), given.labels, reduction="none") for part in (first, second)]
    assert torch.allclose(losses, (both[0] + both[1]) / 2)


# --- all three ---


@pytest.mark.parametrize("method", ["pgd_training", "trades", "ensemble"])
def test_what_they_declare(method):
    kind = DEFENSES[method]
    grid = kind.model_validate_json(f'{{"method": "{method}", "epsilon": [0.1, "8/255"]}}')
    first, second = grid.expanded()
    rest = " beta=6" if method == "trades" else ""
    assert (first.label(), second.label()) == (f"epsilon=0.1{rest}", f"epsilon=8/255{rest}")
    assert first.step == "baselines"
    assert first.columns() == {"training_epsilon": 0.1}
    assert first.needs() == Needs(other_bases=method == "ensemble")
    assert first.draws("other_class")[:2] == (method, "0.1")
    assert first.draws("other_class") == first.draws("any_class")
    gradients = {"pgd_training": 7, "trades": 10, "ensemble": 1}[method]
    assert first.samples_per_image * first.gradients_per_sample == gradients
    with pytest.raises(ValueError, match="Field required"):
        kind.model_validate({})
