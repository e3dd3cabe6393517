"""FAB-T: projections against linear programs, the boundary of linear networks, its bookkeeping."""

from typing import Any, get_args

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import FAB, SEED, like
from scipy.optimize import linprog, minimize
from torch import Tensor

from harness.attacks import norms, perturb
from harness.attacks.autoattack.fast_adaptive_boundary import FabT
from harness.attacks.autoattack.projections import onto_hyperplane
from harness.attacks.autoattack.radii import PNorm
from harness.settings import Mistakes, validated

every_norm = pytest.mark.parametrize("norm", get_args(PNorm))
_DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


# --- projections ------------------------------------------------------------------------------------


def _planes(count: int = 40, values: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the box, many of their values at its ends; normals with zeros; values, some out of reach."""
    random = torch.Generator().manual_seed(5)
    points = (torch.rand(count, values, generator=random, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    normals = torch.randn(count, values, generator=random, dtype=torch.float64)
    normals[torch.rand(count, values, generator=random) < 0.2] = 0
    return points, normals, 1.5 * torch.randn(count, generator=random, dtype=torch.float64)


def _smallest(norm: str, point: np.ndarray, normal: np.ndarray, value: float) -> float | None:
    """The least norm of a change onto the hyperplane within the box, by a general solver; None: no such."""
    box = list(zip(-point, 1 - point, strict=True))
    reach = linprog(np.zeros(len(point)), A_eq=normal[None], b_eq=[-value], bounds=box)
    if reach.status == 2:
        return None
    if norm == "l2":
        meets = {"type": "eq", "fun": lambda d: normal @ d + value, "jac": lambda d: normal}
        found = minimize(
            lambda d: d @ d, reach.x, jac=lambda d: 2 * d, bounds=box, constraints=meets, tol=1e-12
        )
        return float(np.sqrt(found.fun))
    # Unknowns: the change and its absolute values (l1), or the largest of them (linf).
    size = len(point)
    bounds = size if norm == "l1" else 1
    above = np.eye(size) if norm == "l1" else np.ones((size, 1))
    limits = np.block([[np.eye(size), -above], [-np.eye(size), -above]])
    found = linprog(
        np.r_[np.zeros(size), np.ones(bounds)],
        A_ub=limits,
        b_ub=np.zeros(2 * size),
        A_eq=np.r_[normal, np.zeros(bounds)][None],
        b_eq=[-value],
        bounds=box + [(0, None)] * bounds,
    )
    return float(found.fun)


@every_norm
def test_projections_are_the_least_changes_that_a_solver_finds(norm: PNorm) -> None:
    points, normals, values = _planes()
    changes = onto_hyperplane(norm, points, normals, values)
    assert ((points + changes >= -1e-12) & (points + changes <= 1 + 1e-12)).all()
    lengths = torch.linalg.vector_norm(changes, ord={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    left = values + (normals * changes).sum(1)
    out_of_reach = 0
    for row in range(len(points)):
        least = _smallest(norm, points[row].numpy(), normals[row].numpy(), values[row].item())
        if least is None:
            out_of_reach += 1
            corner = (normals[row] * -values[row] > 0).double()
            moved = torch.where(normals[row] == 0, 0, corner - points[row])
            torch.testing.assert_close(changes[row], moved)
        else:
            assert abs(left[row]) < 1e-9
            assert lengths[row].item() == pytest.approx(least, rel=1e-5, abs=1e-7)
    assert 3 < out_of_reach < 20


@every_norm
def test_a_projection_is_of_its_row_alone_and_of_no_scale(norm: PNorm) -> None:
    points, normals, values = (tensor.float() for tensor in _planes(60, 30))
    whole = onto_hyperplane(norm, points, normals, values)
    parts = [
        onto_hyperplane(norm, *(t[row : row + 1] for t in (points, normals, values))) for row in range(60)
    ]
    assert torch.equal(torch.cat(parts), whole)
    small = onto_hyperplane(norm, points, normals * 1e-25, values * 1e-25)
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)
    assert not onto_hyperplane(norm, points, torch.zeros_like(normals), values).any()


# --- the attack -------------------------------------------------------------------------------------


@every_norm
def test_fools_just_beyond_the_distance_to_a_linear_network_s_boundary(norm: PNorm) -> None:
    """With the smallest distance d and an overshoot of 5 %: within 1.06 d of it, and not within .99 d."""
    network, images, labels, ids = attack_cases.linear()
    with torch.no_grad():
        outputs = network(images)
    leads = outputs.gather(1, labels[:, None]) - outputs
    gradients = network.w.detach()[labels][:, None] - network.w.detach()
    distances = leads / torch.linalg.vector_norm(gradients, ord=_DUAL[norm], dim=2).clamp(min=1e-12)
    nearest = distances.scatter(1, labels[:, None], torch.inf).amin(1)
    for row in range(0, len(images), 3):
        one = images[row : row + 1], labels[row : row + 1], ids[row : row + 1]
        radii = tuple(float(nearest[row] * factor) for factor in (0.99, 1.06))
        settings = FabT(method="fab_t", norm=norm, epsilon=radii, steps=20)
        below, beyond = perturb(network, *one, settings, SEED)
        assert torch.equal(below, one[0])
        assert network(beyond).argmax(1) != one[1]


def test_images_that_have_left_their_label_or_are_not_fooled_stay_as_they_are() -> None:
    network, images, labels, ids = attack_cases.digits()
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 10
    tiny, large = perturb(network, images, wrong, ids, like(FAB, epsilon=(1e-4, 0.3)), SEED)
    assert torch.equal(tiny, images)
    assert torch.equal(large[::2], images[::2])
    assert (network(large[1::2]).argmax(1) != wrong[1::2]).all()


def test_images_of_a_network_that_draws_take_every_step() -> None:
    """They stay for the smallest change, where others leave at the first within epsilon."""
    network, images, labels, ids = attack_cases.digits()
    settings = like(FAB, epsilon=(0.3,))
    (left,) = perturb(network, images, labels, ids, settings, SEED)
    network.draws = 20  # type: ignore[assignment]
    (stayed,) = perturb(network, images, labels, ids, settings, SEED)
    assert (network(stayed).argmax(1) != labels).all()
    near, far = norms(images, stayed)["linf"], norms(images, left)["linf"]
    assert (near <= far).all()
    assert near.mean() < 0.95 * far.mean()


@pytest.mark.parametrize("norm", get_args(PNorm))
def test_restarts_begin_at_half_of_epsilon_by_seed_and_image(norm: PNorm) -> None:
    settings = FabT(method="fab_t", norm=norm, epsilon=(0.2,), restarts=2)
    clean, ids = torch.full((2, 1, 4, 4), 0.5), torch.tensor([3, 4])
    first, second = torch.tensor([2, 2]), torch.tensor([3, 3])  # of the second class
    assert torch.equal(settings._started(clean, ids, first, 0.2, SEED), clean)
    started = settings._started(clean, ids, second, 0.2, SEED)
    lengths = norms(clean, started)[norm if norm != "l1" else "mean_l1"] * (16 if norm == "l1" else 1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-5)
    again = settings._started(clean.flip(0), ids.flip(0), second, 0.2, SEED)
    assert torch.equal(again.flip(0), started)
    assert not torch.equal(started[0], started[1])


def test_more_targets_than_there_are_classes_are_all_others() -> None:
    network, images, labels, ids = attack_cases.linear()
    few, many = (like(FAB, targets=targets) for targets in (4, 9))
    results: Any = [perturb(network, images, labels, ids, settings, SEED) for settings in (few, many)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert few.cost(5, 48) == many.cost(5, 48) == 1.5 * 15 * 4 * 2


def test_settings_say_what_is_wrong() -> None:
    for expected, changes in [
        (r"epsilon: should be at most 1 in linf, as values are in \[0, 1\], got 1.5", {"epsilon": [1.5]}),
        ("epsilon: should name nothing twice", {"epsilon": [0.1, 0.1]}),
        ("norm: 'l0' is not possible", {"norm": "l0"}),
        ("steps: should be greater than or equal to 1, got 0", {"steps": 0}),
        ("beta: should be less than 1, got 1", {"beta": 1}),
    ]:
        with pytest.raises(Mistakes, match=expected):
            validated(FabT, {"method": "fab_t", "epsilon": [0.1], **changes})
    assert validated(FabT, {"method": "fab_t", "norm": "l2", "epsilon": [1.5]}).model_dump()["norm"] == "l2"
