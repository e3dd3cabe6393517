"""Each attack's algorithm: closed forms on linear networks, the paper step by step, the references."""

import sys
from types import SimpleNamespace
from typing import Any

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import CW, DDN, DEEPFOOL, EARLY, FGSM, JSMA, PGD, SEED, WARM, Linear, like, margins
from torch import Tensor, nn

from harness import seeds
from harness.attacks import deepfool, norms, perturb
from harness.attacks.carlini_wagner import CwL2
from harness.attacks.gradient_sign import Pgd
from harness.attacks.saliency_map import JsmaPairs, best_pairs, jsma_targets


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Any:
    return attack_cases.digits()


@pytest.fixture
def linear() -> Any:
    return attack_cases.linear()


@pytest.fixture
def binary(linear: Any) -> tuple[Linear, Tensor, Tensor, Tensor, Tensor]:
    """Two classes: the gradient's sign is the same everywhere, returned last."""
    network, images, _, ids = linear
    network = Linear(
        network.w[:2].detach(),
        network.b[:2].detach() - (network.w[:2] @ images[0].flatten() + network.b[:2]).detach(),
    )
    labels = network(images).argmax(1).detach()
    sign = torch.where(labels == 0, 1, -1)[:, None] * (network.w[1] - network.w[0]).sign()
    return network.eval(), images, labels, ids, sign.view_as(images).detach()


# --- closed forms ---------------------------------------------------------------------------------


def test_fgsm_moves_every_value_by_epsilon_along_the_sign(binary: Any) -> None:
    network, images, labels, ids, sign = binary
    for epsilon, batch in zip(FGSM.epsilon, perturb(network, images, labels, ids, FGSM, SEED), strict=True):
        torch.testing.assert_close(batch, (images + epsilon * sign).clamp(0, 1))


def test_pgd_reaches_the_corner_of_the_ball_from_any_start(binary: Any) -> None:
    network, images, labels, ids, sign = binary
    for epsilon, batch in zip(PGD.epsilon, perturb(network, images, labels, ids, PGD, SEED), strict=True):
        torch.testing.assert_close(batch, (images + epsilon * sign).clamp(0, 1))


def test_pgd_starts_from_the_draw_of_the_image(linear: Any) -> None:
    network, images, labels, ids = linear
    still = Pgd(method="pgd", epsilon=(0.1,), steps=1, step_divisor=1e6)
    (batch,) = perturb(network, images, labels, ids, still, SEED)
    draw = seeds.uniform(SEED, ids, torch.zeros_like(ids), 48).view_as(images)
    torch.testing.assert_close(batch, images + 0.1 * (2 * draw - 1), rtol=0, atol=1e-6)
    (other,) = perturb(network, images, labels, ids, still, SEED + 1)
    assert (other - batch).abs().mean() > 0.01
    (clean,) = perturb(network, images, labels, ids, like(still, random_start=False), SEED)
    torch.testing.assert_close(clean, images, rtol=0, atol=1e-6)


@pytest.fixture
def distance(linear: Any) -> np.ndarray:
    """l2 to the nearest boundary: min over l of (f_k - f_l) / |w_k - w_l|."""
    network, images, labels, _ = linear
    with torch.no_grad():
        logits, w = network(images).double(), network.w.double()
    f = logits.gather(1, labels[:, None]) - logits
    length = (w[labels][:, None] - w[None]).norm(dim=2)
    return (f / length).scatter(1, labels[:, None], torch.inf).amin(1).numpy()


@pytest.mark.parametrize("overshoot", [1e-6, 0.02])
def test_deepfool_is_optimal_on_a_linear_network(overshoot: float, linear: Any, distance: np.ndarray) -> None:
    network, images, labels, ids = linear
    (batch,) = perturb(network, images, labels, ids, like(DEEPFOOL, overshoot=overshoot), SEED)
    np.testing.assert_allclose(norms(images, batch)["l2"], distance * (1 + overshoot), rtol=1e-3)
    assert overshoot < 0.01 or (margins(network, batch, labels) < 0).all()


@pytest.mark.parametrize(
    "settings", [DEEPFOOL, like(DEEPFOOL, rule="authors")], ids=lambda settings: settings.rule
)
def test_deepfool_passes_over_no_class_that_is_nearest(
    settings: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, settings, SEED)
    monkeypatch.setattr(deepfool, "_FAR", 1e9)
    (all_looked_at,) = perturb(network, images, labels, ids, settings, SEED)
    torch.testing.assert_close(batch, all_looked_at, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.05, 0.01])
def test_ddn_comes_within_gamma_of_the_boundary_of_two_classes(gamma: float, binary: Any) -> None:
    network, images, labels, ids, _ = (
        value[1:] if isinstance(value, Tensor) else value for value in binary
    )  # the first lies on it
    (batch,) = perturb(
        network, images, labels, ids, like(DDN, steps=1000, gamma=gamma, initial_norm=0.1), SEED
    )
    assert (margins(network, batch, labels) < 0).all()
    distance = margins(network, images, labels) / (network.w[1] - network.w[0]).norm().detach()
    ratio = norms(images, batch)["l2"] / distance.numpy()
    assert (ratio >= 0.999).all()
    assert (ratio <= 1 + gamma + 0.001).all()


def test_ddn_returns_the_clean_image_where_it_fails(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, like(DDN, steps=2, initial_norm=1e-3), SEED)
    assert torch.equal(batch, images)


def test_ddn_follows_gradients_whose_squares_vanish(binary: Any) -> None:
    """A network surer of its images has the same boundary."""
    network, images, labels, ids, _ = (value[1:] if isinstance(value, Tensor) else value for value in binary)
    sure = Linear(network.w.detach() * 25, network.b.detach() * 25).eval()
    assert 50 < margins(sure, images, labels).max() < 100
    settings = like(DDN, steps=300, initial_norm=0.1)
    (batch,), (expected,) = (perturb(model, images, labels, ids, settings, SEED) for model in (sure, network))
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-4)


def test_cw_l2_is_nearly_optimal_on_a_linear_network(linear: Any, distance: np.ndarray) -> None:
    network, images, labels, ids = linear
    settings = CwL2(method="cw_l2", binary_search_steps=8, steps=200, learning_rate=0.01)
    (batch,) = perturb(network, images, labels, ids, settings, SEED)
    assert (margins(network, batch, labels) < 0).all()
    ratio = norms(images, batch)["l2"] / distance
    # Not all: Adam's first step may be longer than the distance, and the hinge follows the class that leads
    # now.
    assert (ratio >= 0.999).all()
    assert np.quantile(ratio, 0.8) <= 1.02


def test_a_warm_start_needs_fewer_steps(digits: Any) -> None:
    network, images, labels, ids = digits
    cold, warm = like(CW, binary_search_steps=5, steps=100), like(WARM, binary_search_steps=8, steps=20)
    (far,), (near,), (few,) = (
        perturb(network, images, labels, ids, s, SEED) for s in (cold, warm, like(warm, warm_start=False))
    )
    assert (margins(network, near, labels) < 0).all()
    length = [norms(images, batch)["l2"].mean() for batch in (far, near, few)]
    assert length[1] <= 1.03 * length[0] < 1.03 * length[2]


def test_cw_l2_passes_the_confidence_asked_for(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, like(CW, confidence=1.0, binary_search_steps=5), SEED)
    moved = norms(images, batch)["l0"] > 0
    assert moved.any()
    assert (margins(network, batch, labels)[moved] < -1).all()


def test_cw_l2_returns_the_clean_image_where_it_fails(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(
        network, images, labels, ids, like(CW, initial_constant=1e-9, binary_search_steps=1), SEED
    )
    assert torch.equal(batch, images)


# --- saliency maps --------------------------------------------------------------------------------


def test_jsma_targets_are_other_classes_drawn_by_image() -> None:
    ids, labels = torch.arange(9000), torch.arange(9000) % 10
    targets = jsma_targets(labels, ids, 10, SEED)
    assert targets.dtype == torch.int64
    assert targets.min() == 0
    assert targets.max() == 9
    assert (targets != labels).all()
    counts = torch.bincount((targets - labels) % 10, minlength=10)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 130
    order = torch.arange(8999, -1, -3)
    assert torch.equal(jsma_targets(labels[order], ids[order], 10, SEED), targets[order])
    assert (jsma_targets(labels, ids, 10, SEED + 1) != targets).any()
    assert torch.equal(jsma_targets(labels % 2, ids, 2, SEED), 1 - labels % 2)
    with pytest.raises(ValueError, match="2 classes"):
        jsma_targets(labels, ids, 1, SEED)


def _all_pairs(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Saliency of every pair of one image, [d, d], 0 where it has none; and the largest."""
    alpha, beta = a[:, None] + a[None], c[:, None] + c[None]
    saliency = torch.where((alpha > 0) & (beta > 0), alpha * beta, 0).triu(diagonal=1)
    return saliency, saliency.max()


@pytest.mark.parametrize(
    "kind", ["independent", "opposed", "equal", "few values", "mostly out", "all out", "one left", "negative"]
)
def test_best_pairs_equals_the_search_of_all_pairs(kind: str) -> None:
    random = torch.Generator().manual_seed(5)
    a, c = torch.randn(64, 50, generator=random), torch.randn(64, 50, generator=random)
    out = torch.zeros(64, 50, dtype=torch.bool)
    if kind == "opposed":
        c = 0.5 - a  # nothing dominates anything
    elif kind == "equal":
        a, c = torch.ones(64, 50), torch.ones(64, 50)
    elif kind == "few values":
        a, c = (2 * a).round(), (2 * c).round()
    elif kind == "mostly out":
        out = torch.rand(64, 50, generator=random) < 0.9
    elif kind in ("all out", "one left"):
        out[:] = True
        out[:, 17] = kind == "all out"  # one value alone makes no pair
    elif kind == "negative":
        a = -a.abs()
    a, c = a.masked_fill(out, -torch.inf), c.masked_fill(out, -torch.inf)
    pair, valid = best_pairs(a, c)
    for row in range(64):
        saliency, largest = _all_pairs(a[row], c[row])
        assert valid[row] == (largest > 0)
        if valid[row]:
            p, q = sorted(pair[row].tolist())
            assert saliency[p, q] == largest
    assert valid.any() == (kind not in ("all out", "one left", "negative"))


@pytest.mark.parametrize(("theta", "gamma"), [(1.0, 0.1), (1.0, 1.0), (0.4, 0.3), (-0.5, 1.0)])
def test_jsma_pairs_follows_the_paper_step_by_step(theta: float, gamma: float, digits: Any) -> None:
    network, images, labels, ids = digits[0], *(value[:8] for value in digits[1:])
    (batch,) = perturb(
        network, images, labels, ids, JsmaPairs(method="jsma_pairs", theta=theta, gamma=gamma), SEED
    )
    targets, sign = jsma_targets(labels, ids, 10, SEED).tolist(), 1 if theta > 0 else -1
    for image, target, adversarial in zip(images, targets, batch, strict=True):
        x = image.flatten().clone()
        for _ in range(int(64 * gamma / 2)):
            jacobian = torch.autograd.functional.jacobian(lambda v: network(v.view(1, 1, 8, 8))[0], x)
            domain = (x != (1.0 if theta > 0 else 0.0)).nonzero()[:, 0]
            a, c = sign * jacobian[target][domain], -sign * (jacobian.sum(0) - jacobian[target])[domain]
            saliency, largest = _all_pairs(a, c)
            if network(x.view(1, 1, 8, 8)).argmax() == target or not largest > 0:
                break
            pair = domain[(saliency == largest).nonzero()[0]]
            x[pair] = (x[pair] + theta).clamp(0, 1)
        torch.testing.assert_close(adversarial.flatten(), x)
    assert norms(images, batch)["l0"].max() <= 64 * gamma


# --- references -----------------------------------------------------------------------------------


def test_fgsm_equals_foolbox(digits: Any) -> None:
    foolbox = pytest.importorskip("foolbox")
    network, images, labels, ids = digits
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    reference, _, _ = foolbox.attacks.LinfFastGradientAttack()(
        model, images, labels, epsilons=list(FGSM.epsilon)
    )
    for ours, theirs in zip(perturb(network, images, labels, ids, FGSM, SEED), reference, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_cw_l2_is_as_near_as_foolbox_one_image_at_a_time(digits: Any) -> None:
    foolbox = pytest.importorskip("foolbox")
    network, images, labels, ids = digits[0], *(value[:8] for value in digits[1:])
    settings = CwL2(method="cw_l2", binary_search_steps=5, steps=100, initial_constant=0.01)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=5,
        steps=100,
        stepsize=settings.learning_rate,
        initial_const=settings.initial_constant,
    )
    theirs = torch.cat(
        [attack.run(model, images[i : i + 1], foolbox.Misclassification(labels[i : i + 1])) for i in range(8)]
    )
    (ours,) = perturb(network, images, labels, ids, settings, SEED)
    assert (margins(network, ours, labels) < 0).sum() >= (margins(network, theirs, labels) < 0).sum()
    np.testing.assert_allclose(norms(images, ours)["l2"], norms(images, theirs)["l2"], rtol=0.01)


def test_ddn_equals_adv_lib(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visdom", SimpleNamespace())  # adv-lib imports it to draw curves
    reference = pytest.importorskip(
        "adv_lib.attacks.decoupled_direction_norm", reason="adv-lib is not installed"
    )
    network, images, labels, ids = digits
    (ours,) = perturb(network, images, labels, ids, DDN, SEED)
    theirs = reference.ddn(network, images, labels, steps=DDN.steps, levels=None)
    np.testing.assert_allclose(norms(images, ours)["l2"], norms(images, theirs)["l2"], rtol=1e-3)


def _start(images: Tensor, ids: Tensor, epsilon: float, restart: int) -> Tensor:
    draw = seeds.uniform(SEED, ids, torch.full_like(ids, restart), images[0].numel()).view_as(images)
    return (images + epsilon * (2 * draw - 1)).clamp(0, 1)


def _iterates(
    network: nn.Module, x: Tensor, clean: Tensor, labels: Tensor, settings: Any, epsilon: float
) -> list[Tensor]:
    """Every image of plain PGD, the start first."""
    found = [x]
    for _ in range(settings.steps):
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(network(x), labels), x)[0]
        x = (x + epsilon / settings.step_divisor * gradient.sign()).detach()
        found.append((clean + (x - clean).clamp(-epsilon, epsilon)).clamp(0, 1))
        x = found[-1]
    return found


def test_pgd_is_the_iteration_of_the_paper(digits: Any) -> None:
    network, images, labels, ids = digits
    for epsilon, batch in zip(PGD.epsilon, perturb(network, images, labels, ids, PGD, SEED), strict=True):
        expected = _iterates(network, _start(images, ids, epsilon, 0), images, labels, PGD, epsilon)[-1]
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-6)


def test_early_stop_leaves_each_image_where_foolboxs_path_first_fools(digits: Any) -> None:
    network, images, labels, ids = digits
    once = like(EARLY, restarts=1)
    foolbox = perturb(network, images, labels, ids, PGD, SEED)
    for epsilon, batch, full in zip(
        PGD.epsilon, perturb(network, images, labels, ids, once, SEED), foolbox, strict=True
    ):
        path = _iterates(network, _start(images, ids, epsilon, 0), images, labels, PGD, epsilon)
        fooled = torch.stack([margins(network, x, labels) < 0 for x in path])
        first = torch.where(fooled.any(0), fooled.int().argmax(0), len(path) - 1)
        expected = torch.stack(path)[first, torch.arange(len(images))]
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-6)
        assert torch.equal(margins(network, batch, labels) < 0, margins(network, full, labels) < 0)


@pytest.mark.parametrize("engine", ["foolbox", "early_stop"])
def test_a_restart_is_for_what_the_earlier_ones_left(engine: str, digits: Any) -> None:
    network, images, labels, ids = digits
    hard = like(PGD, epsilon=(0.2,), steps=3, engine=engine)
    (one,), (three,) = (perturb(network, images, labels, ids, like(hard, restarts=n), SEED) for n in (1, 3))
    fooled, now = margins(network, one, labels) < 0, margins(network, three, labels) < 0
    assert torch.equal(three[fooled], one[fooled])
    assert 0 < fooled.sum() < now.sum() < len(images)
    last = _iterates(network, _start(images, ids, 0.2, 2), images, labels, hard, 0.2)[-1]
    torch.testing.assert_close(three[~now], last[~now], rtol=0, atol=1e-6)


def _art(network: nn.Module) -> Any:
    pytest.importorskip("art")
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        network, loss=nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0, 1)
    )


@pytest.mark.parametrize("overshoot", [1e-6, 0.02])
def test_deepfool_agrees_with_art(overshoot: float, digits: Any) -> None:
    network, images, labels, ids = digits
    classifier = _art(network)
    from art.attacks.evasion import DeepFool

    theirs = DeepFool(
        classifier, max_iter=100, epsilon=overshoot, nb_grads=10, batch_size=64, verbose=False
    ).generate(images.numpy())
    (ours,) = perturb(network, images, labels, ids, like(DEEPFOOL, overshoot=overshoot), SEED)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("theta", "gamma"), [(0.1, 1.0), (0.1, 0.1), (-0.25, 0.5)])
def test_jsma_is_identical_to_art(theta: float, gamma: float, digits: Any) -> None:
    network, images, labels, ids = digits
    classifier = _art(network)
    from art.attacks.evasion import SaliencyMapMethod

    targets = jsma_targets(labels, ids, 10, SEED).numpy()
    attack = SaliencyMapMethod(classifier, theta=theta, gamma=gamma, batch_size=1, verbose=False)
    theirs = attack.generate(images.numpy(), y=np.eye(10)[targets])
    settings = like(JSMA, theta=theta, gamma=gamma)
    (ours,) = perturb(network, images, labels, ids, settings, SEED)
    assert np.array_equal(ours.numpy(), theirs)
