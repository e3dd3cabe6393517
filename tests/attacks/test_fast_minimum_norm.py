"""FMN: closed forms on a linear network, Foolbox's own; and the projections that it and others use."""

from typing import Any

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import FMN, SEED, Linear, like, margins
from torch import Tensor

from harness.attacks import ATTACKS, perturb
from harness.attacks.ball import dual_size, nearest, size
from harness.settings import Mistakes, validated

NORMS = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Any:
    return attack_cases.digits()


def _sum_in_the_box(image: np.ndarray, gap: float, steepness: np.ndarray) -> float:
    """The smallest l1 that closes a gap: the steepest values first, each as far as [0, 1] lets it."""
    room = np.where(steepness > 0, 1 - image, image)
    used = 0.0
    for place in np.argsort(-abs(steepness)):
        gain = room[place] * abs(steepness[place])
        if gain >= gap:
            return used + gap / abs(steepness[place])
        gap, used = gap - gain, used + room[place]
    return np.inf


def _closed_form(network: Linear, images: Tensor, labels: Tensor, norm: Any) -> Tensor:
    """The smallest distance to another class of each image: gap / dual norm, but in l1 within [0, 1]."""
    with torch.no_grad():
        logits, w = network(images).double(), network.w.double()
    distances = []
    for image, label, values in zip(images.double().flatten(1), labels, logits, strict=True):
        others = [other for other in range(len(w)) if other != label]
        towards = torch.stack([w[other] - w[label] for other in others])
        gaps = [float(values[label] - values[other]) for other in others]
        if norm == "l1":
            found = [
                _sum_in_the_box(image.numpy(), gap, row.numpy())
                for gap, row in zip(gaps, towards, strict=True)
            ]
        else:
            found = (torch.tensor(gaps) / dual_size(towards[:, None, None], norm)).tolist()
        distances.append(min(found))
    return torch.tensor(distances)


@NORMS
def test_comes_near_the_smallest_change_of_a_linear_network(norm: Any) -> None:
    network, images, labels, ids = attack_cases.linear()
    (batch,) = perturb(network, images, labels, ids, like(FMN, minimized=norm, steps=300), SEED)
    assert (network(batch).argmax(1) != labels).all()
    ratio = size(batch - images, norm) / _closed_form(network, images, labels, norm)
    assert ratio.min() >= 0.999
    assert ratio.quantile(0.9) <= 1.01
    assert ratio.max() <= 1.5  # one image finds the boundary of another class than the nearest


@NORMS
def test_is_as_near_as_foolbox(norm: Any, digits: Any) -> None:
    """Where Foolbox fools: in l1 it may approach a boundary that it never crosses."""
    foolbox = pytest.importorskip("foolbox")
    network, images, labels, ids = digits
    attack = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack"}[norm]
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    theirs = getattr(foolbox.attacks, attack)(steps=100).run(model, images, foolbox.Misclassification(labels))
    (ours,) = perturb(network, images, labels, ids, like(FMN, minimized=norm, steps=100), SEED)
    assert (margins(network, ours, labels) < 0).all()
    fooled = margins(network, theirs, labels) < 0
    assert fooled.float().mean() > 0.5
    nearer, reference = (size(batch - images, norm)[fooled] for batch in (ours, theirs))
    assert nearer.median() <= 1.02 * reference.median()
    assert nearer.mean() <= 1.02 * reference.mean()


@NORMS
def test_returns_the_clean_image_where_it_fails(norm: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, like(FMN, minimized=norm, steps=1), SEED)
    assert torch.equal(batch, images)
    _, images, labels, ids = attack_cases.linear()
    flat = Linear(torch.zeros(5, 48), torch.arange(5.0)).eval()
    (batch,) = perturb(flat, images, torch.full_like(labels, 4), ids, like(FMN, minimized=norm), SEED)
    assert torch.equal(batch, images)


def test_settings_that_cannot_be_meant_are_mistakes() -> None:
    for setting, expected in [
        ({"steps": 0}, "steps: should be greater than or equal to 1, got 0"),
        ({"norm": "l0"}, "norm: 'l0' is not possible"),
        ({"gamma": 1}, "gamma: "),
        ({"max_stepsize": 0}, "max_stepsize: "),
        ({"epsilon": [0.1]}, "epsilon: unknown setting"),
    ]:
        with pytest.raises(Mistakes, match=expected):
            validated(ATTACKS["fmn"], {"method": "fmn", **setting})


# --- the balls ------------------------------------------------------------------------------------------


def _projected(clean: np.ndarray, change: np.ndarray, radius: float) -> np.ndarray:
    """The nearest, in float64: between thresholds where a value begins or ends to shrink, sums are linear."""
    room = np.where(change > 0, 1 - clean, clean)

    def shrunk(threshold: float) -> np.ndarray:
        return np.clip(abs(change) - threshold, 0, room)

    if shrunk(0).sum() <= radius:
        return clean + shrunk(0) * np.sign(change)
    kinks = np.unique(np.clip(np.concatenate([[0], abs(change), abs(change) - room]), 0, None))
    sums = np.array([shrunk(kink).sum() for kink in kinks])
    threshold = np.interp(radius, sums[::-1], kinks[::-1])
    return clean + shrunk(threshold) * np.sign(change)


@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_the_nearest_in_l1_and_the_box_is_exact(scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    clean = torch.rand(20, 3, 5, 4, generator=random)
    clean[:, 0] = clean[:, 0].round()  # values without any room on one side
    change = scale * torch.randn(clean.shape, generator=random)
    radius = 6 * torch.rand(20, generator=random)
    found = nearest(clean, change, radius, "l1")
    assert (size(found - clean, "l1") <= radius * (1 + 1e-5)).all()
    for one, image, step, limit in zip(found, clean, change, radius.tolist(), strict=True):
        expected = _projected(image.double().numpy().ravel(), step.double().numpy().ravel(), limit)
        np.testing.assert_allclose(one.numpy().ravel(), expected, rtol=0, atol=2e-5)


@NORMS
def test_what_is_inside_stays_and_nothing_leaves(norm: Any) -> None:
    random = torch.Generator().manual_seed(0)
    clean, radius = torch.rand(9, 1, 6, 6, generator=random), torch.linspace(0.0, 2.0, 9)
    change = torch.randn(clean.shape, generator=random)
    found = nearest(clean, change, radius, norm)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (size(found - clean, norm) <= radius * (1 + 1e-5)).all()
    again = nearest(clean, found - clean, radius, norm)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-6)
