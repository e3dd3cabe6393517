"""APGD: the worst margin of linear networks, the paper's checkpoints, its bookkeeping, torchattacks' own."""

from typing import Any

import attack_cases
import pytest
import torch
from attack_cases import APGD, APGD_T, SEED, like, margins
from torch import Tensor, nn

from harness.attacks import norms, perturb
from harness.attacks.autoattack.ascent import _Phase, _phases, _windows
from harness.settings import Mistakes, validated

RADII = {"linf": 0.01, "l2": 0.05, "l1": 0.1}  # of the linear network: no value meets 0 or 1
_DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Any:
    return attack_cases.digits()


# --- what it finds ----------------------------------------------------------------------------------------


def _two_classes() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    network, images, _, ids = attack_cases.linear()
    with torch.no_grad():
        network.w[2:], network.b[2:] = network.w[1] - 1, -1e4  # out of reach
        return network, images, network(images).argmax(1), ids


@pytest.mark.parametrize("case", [APGD, APGD_T], ids=["ce", "t"])
@pytest.mark.parametrize("norm", RADII)
def test_the_worst_margin_of_a_linear_network(case: Any, norm: Any) -> None:
    """Between two classes it falls by the radius times the dual norm of the difference of their weights."""
    network, images, labels, ids = _two_classes()
    settings = like(case, ball=norm, epsilon=(RADII[norm],), steps=60)
    (moved,) = perturb(network, images, labels, ids, settings, SEED)
    drop = RADII[norm] * (network.w[0] - network.w[1]).norm(p=_DUAL[norm])
    expected = margins(network, images, labels) - drop
    found = margins(network, moved, labels)
    left = expected > 0  # images that are fooled leave on the way
    assert left.sum() > 3
    # In l1 the best change is of one value; the steps get there by and by.
    short = (0.1 if norm == "l1" else 0.01) * drop.item()
    torch.testing.assert_close(found[left], expected[left], rtol=0, atol=short)
    assert (found[~left] < 0).all()


@pytest.mark.parametrize("case", [APGD, APGD_T], ids=["ce", "t"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.15), ("l2", 1.0), ("l1", 4.0)])
def test_what_stays_in_the_ball_fools_more_than_its_start(
    digits: Any, case: Any, norm: Any, radius: float
) -> None:
    network, images, labels, ids = digits
    moved, short = (
        perturb(network, images, labels, ids, like(case, ball=norm, epsilon=(radius,), steps=steps), SEED)[0]
        for steps in (30, 1)
    )
    assert norms(images, moved)[norm].max() <= radius * (1 + 1e-4) + 1e-6
    survive = [int((margins(network, each, labels) > 0).sum()) for each in (moved, short)]
    assert survive[0] < survive[1]


@pytest.mark.parametrize("case", [APGD, APGD_T], ids=["ce", "t"])
def test_an_image_that_errs_stays_as_it_is(digits: Any, case: Any) -> None:
    network, images, labels, ids = digits
    wrong = (labels + 1) % 10
    for moved in perturb(network, images, wrong, ids, case, SEED):
        assert torch.equal(moved, images)


def test_below_four_classes_targets_are_those_that_there_are() -> None:
    """The ratio needs four logits, and nine targets ten classes."""
    network, images, _, ids = attack_cases.linear()
    for classes in (2, 3):
        few = attack_cases.Linear(network.w[:classes].detach(), network.b[:classes].detach()).eval()
        labels = few(images).argmax(1)
        (moved,) = perturb(few, images, labels, ids, like(APGD_T, epsilon=(0.2,)), SEED)
        assert (margins(few, moved, labels) < 0).all()


class _Drawing(nn.Module):
    """A network that is said to draw."""

    draws = 20

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


@pytest.mark.parametrize("case", [APGD, APGD_T], ids=["ce", "t"])
def test_no_image_leaves_a_network_that_draws(digits: Any, case: Any) -> None:
    """What comes back has the smallest margin met, not the first below 0."""
    network, images, labels, ids = digits
    settings = like(case, epsilon=(0.3,))
    (left,) = perturb(network, images, labels, ids, settings, SEED)
    (stayed,) = perturb(_Drawing(network).eval(), images, labels, ids, settings, SEED)
    first, last = margins(network, left, labels), margins(network, stayed, labels)
    assert (last <= first + 1e-6).all() and last.sum() < first.sum() - 1


# --- its clock --------------------------------------------------------------------------------------------


def test_checkpoints_are_the_papers() -> None:
    """Section 3.1: p_0 = 0, p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06), of the steps."""
    points = [0.0, 0.22]
    while points[-1] < 1:
        points.append(points[-1] + max(points[-1] - points[-2] - 0.03, 0.06))
    expected = [round(100 * point) for point in points[1:] if point <= 1]
    (windows,) = _windows("linf", [_Phase(0.1, 100)])
    assert (windows.nonzero()[:, 0] + 1).tolist() == expected
    assert windows[windows > 0].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]


def test_runs_in_l1_shrink_to_the_radius() -> None:
    phases = _phases("l1", 2.0, 100)
    assert [(phase.radius, phase.steps) for phase in phases] == [(6.0, 30), (4.0, 30), (2.0, 40)]
    assert [phase.steps for phase in _phases("l1", 2.0, 1)] == [1]


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("targets", 0), ("epsilon", [1.5])])
def test_settings_that_mean_nothing(name: str, value: Any) -> None:
    given = {"method": "apgd_t", "norm": "linf", "epsilon": [0.1], name: value}
    with pytest.raises(Mistakes, match=name):
        validated(type(APGD_T), given)


# --- torchattacks' port -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_as_many_survive_torchattacks_port(norm: str) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    network, images, labels, ids = attack_cases.digits()
    radius = {"linf": 0.1, "l2": 0.6}[norm]
    name = {"linf": "Linf", "l2": "L2"}[norm]
    left = images
    for case, port, more in ((APGD, "APGD", {"loss": "ce"}), (APGD_T, "APGDT", {})):
        settings = like(case, ball=norm, epsilon=(radius,), steps=25)
        (ours,) = perturb(network, left, labels, ids, settings, SEED)
        theirs = getattr(torchattacks, port)(network, norm=name, eps=radius, steps=25, n_restarts=1, **more)
        peer = theirs(images, labels)
        survive = [int((margins(network, each, labels) > 0).sum()) for each in (ours, peer)]
        assert 0 < survive[0] < len(labels) and abs(survive[0] - survive[1]) <= 1
