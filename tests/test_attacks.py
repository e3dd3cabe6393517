"""Attacks: common properties from one table of cases, closed forms on linear networks, agreement with the references."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness import networks, seeds, spec
from harness.attacks import ATTACKS, gradient_sign, norms, perturb
from harness.attacks.saliency_map import best_pairs, jsma_targets

SEED = 7
FGSM = spec.Fgsm(method="fgsm", epsilon=(0.05, 0.1, 0.3))
DEEPFOOL = spec.DeepFool(method="deepfool", overshoot=1e-6)
JSMA = spec.Jsma(method="jsma", theta=0.1, gamma=1.0)
PAIRS = spec.JsmaPairs(method="jsma_pairs", gamma=0.4)
CW = spec.CwL2(method="cw_l2", binary_search_steps=3, steps=40)
PGD = spec.Pgd(method="pgd", epsilon=(0.05, 0.3), steps=10, step_divisor=4)
DDN = spec.Ddn(method="ddn", steps=40)


def _like(settings: Any, **changes: Any) -> Any:
    return settings.model_copy(update=changes)


WARM = _like(CW, warm_start=True, binary_search_steps=4, steps=15, initial_constant=1.0)
EARLY = _like(PGD, engine="early_stop", restarts=3)
CASES: list[Any] = [
    *(
        FGSM,
        DEEPFOOL,
        _like(DEEPFOOL, rule="authors", overshoot=0.02),
        JSMA,
        _like(JSMA, theta=-0.25, gamma=0.5),
        PAIRS,
    ),
    *(CW, WARM, DDN, PGD, _like(PGD, restarts=3), EARLY),
]
CASES += [_like(case, gradients="bfloat16") for case in (DEEPFOOL, WARM, DDN, PGD, EARLY)]
cases = pytest.mark.parametrize(
    "settings", CASES, ids=lambda settings: f"{settings.method}-{getattr(settings, 'gradients', '')}"
)


class InDouble(nn.Module):
    """Sums in float64 with weights of any precision, so that the order of summation shows in no result."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        weights = {**dict(self.body.named_parameters()), **dict(self.body.named_buffers())}
        doubled = {
            name: value.double() if value.is_floating_point() else value for name, value in weights.items()
        }
        return functional_call(self.body, doubled, x.double()).to(x.dtype)


class Linear(nn.Module):
    """Logits w x + b."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A small trained network, 24 images that it did not see, its predictions, and the images' ids."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
        )
        optimizer = torch.optim.Adam(body.parameters(), 0.01)
        for _ in range(5):
            for batch in torch.randperm(1500).split(100):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(body(images[batch]), labels[batch]).backward()
                optimizer.step()
    network = networks.Classifier(InDouble(body), (0.0,), (1.0,)).eval()
    network.zero_grad(set_to_none=True)
    images, ids = images[1500:1524], torch.arange(1500, 1524)
    with torch.no_grad():
        return network, images, network(images).argmax(1), ids


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor, Tensor]:
    """Five classes, images far enough from 0 and 1 that nothing is clipped, their predictions and ids."""
    random = torch.Generator().manual_seed(3)
    w = torch.randn(5, 48, generator=random)
    network = Linear(w, -0.5 * w.sum(1)).eval()  # all classes meet at the grey image
    images = 0.2 + 0.6 * torch.rand(16, 3, 4, 4, generator=random)
    with torch.no_grad():
        return network, images, network(images).argmax(1), torch.arange(16)


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


def _margins(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = network(images)
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


# --- all attacks ----------------------------------------------------------------------------------


def test_every_method_of_the_spec_has_an_attack() -> None:
    assert set(ATTACKS) == set(spec.METHODS)
    assert {case.method for case in CASES} == set(ATTACKS)


@cases
def test_returns_images_and_leaves_the_network_as_it_was(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    network.body.body[0].bias.requires_grad_(False)
    before, clean = {key: value.clone() for key, value in network.state_dict().items()}, images.clone()
    result = perturb(network, images, labels, ids, settings, SEED)
    epsilons = getattr(settings, "epsilon", (1.0,))
    assert len(result) == len(epsilons)
    for batch, epsilon in zip(result, epsilons, strict=True):
        assert batch.shape == images.shape
        assert batch.dtype == torch.float32
        assert not batch.requires_grad
        assert batch.min() >= 0
        assert batch.max() <= 1
        assert (batch - images).abs().max() <= epsilon + 1e-6
    fooled = (_margins(network, result[-1], labels) < 0).float().mean().item()
    assert fooled >= 0.5, f"{settings.method} fools only {fooled:.0%}"
    assert torch.equal(images, clean)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == [
        "body.body.0.bias"
    ]
    network.body.body[0].bias.requires_grad_(True)


@cases
def test_does_not_depend_on_how_images_are_grouped(settings: Any, digits: Any) -> None:
    """Neither on the batch's size, nor on its company, nor on the order: a worker may get any images."""
    network, images, labels, ids = digits
    whole = perturb(network, images, labels, ids, settings, SEED)
    torch.manual_seed(1)
    np.random.seed(1)
    refilled = perturb(network, images, labels, ids, settings, SEED, batch_size=5)
    parts = [
        perturb(network, *part, settings, SEED)
        for part in zip(images.split(7), labels.split(7), ids.split(7), strict=True)
    ]
    backwards = perturb(network, images.flip(0), labels.flip(0), ids.flip(0), settings, SEED, batch_size=16)
    for position, batch in enumerate(whole):
        for other in (
            refilled[position],
            torch.cat([part[position] for part in parts]),
            backwards[position].flip(0),
        ):
            torch.testing.assert_close(other, batch, rtol=0, atol=1e-5)
            with torch.no_grad():
                assert torch.equal(network(other).argmax(1), network(batch).argmax(1))


@pytest.mark.parametrize("settings", [DEEPFOOL, CW, DDN], ids=lambda settings: settings.method)
@pytest.mark.parametrize("channels", [1, 3])
def test_strides_say_nothing(channels: int, settings: Any) -> None:
    """Grey images have strides in any layout, and kernels are chosen by them."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(6, channels, 8, 8, generator=random)
    network = networks.build(
        spec.NetworkSpec(architecture="convnet", width=4), (images * 255).byte().numpy(), 3, 0
    ).eval()
    odd = images.contiguous(memory_format=torch.channels_last)
    odd = odd.as_strided(odd.shape, (channels * 64, 1, 8 * channels, channels))
    labels, ids = network(images).argmax(1), torch.arange(6)
    for model in (network, network.to(memory_format=torch.channels_last)):
        (plain,), (strided,) = (perturb(model, x, labels, ids, settings, SEED) for x in (images, odd))
        assert torch.equal(plain, strided)


@pytest.mark.parametrize("settings", [DEEPFOOL, CW, DDN], ids=lambda settings: settings.method)
def test_images_that_have_left_their_label_stay_as_they_are(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 10
    (batch,) = perturb(network, images, wrong, ids, settings, SEED)
    assert torch.equal(batch[::2], images[::2])
    assert (_margins(network, batch[1::2], wrong[1::2]) < 0).all()


def test_inputs_that_cannot_be_attacked_are_refused(linear: Any) -> None:
    network, images, labels, ids = linear
    probabilities = nn.Sequential(network, nn.Softmax(1)).eval()
    broken = Linear(network.w.detach() * torch.nan, network.b.detach()).eval()
    for expected, arguments in [
        ("float32", (network, (images * 255).byte(), labels, ids)),
        ("float32", (network, images[0], labels, ids)),
        ("not empty", (network, images[:0], labels[:0], ids[:0])),
        (r"\[0, 1\]", (network, images + 1, labels, ids)),
        (r"\[0, 1\]", (network, images * torch.nan, labels, ids)),
        ("labels must be int64", (network, images, labels.float(), ids)),
        ("labels must be 0 to 4", (network, images, labels + 5, ids)),
        ("ids must be int64", (network, images, labels, ids[:3])),
        ("eval mode", (nn.Sequential(network), images, labels, ids)),
        ("probabilities", (probabilities, images, labels, ids)),
        ("finite logits", (broken, images, labels, ids)),
    ]:
        with pytest.raises(ValueError, match=expected):
            perturb(*arguments, FGSM, SEED)
    with pytest.raises(ValueError, match="unknown attack method 'fgms'; did you mean 'fgsm'"):
        perturb(network, images, labels, ids, SimpleNamespace(method="fgms"), SEED)  # type: ignore[arg-type]
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("expected", "broken"),
    [
        ("not finite", lambda x, e: x * torch.nan),
        ("not in", lambda x, e: x + 1),
        ("ball", lambda x, e: x + e + 1e-3),
        ("unlike", lambda x, e: x.double()),
    ],
)
def test_an_attack_that_breaks_its_word_is_an_error(
    expected: str, broken: Any, linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, labels, ids = linear
    monkeypatch.setitem(
        ATTACKS, "fgsm", lambda n, x, y, i, settings, seed, size: [broken(x, e) for e in settings.epsilon]
    )
    with pytest.raises(RuntimeError, match=expected):
        perturb(network, images, labels, ids, FGSM, SEED)


def test_norms_are_those_of_the_perturbation() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    adversarial = images.clone()
    adversarial[1, 0, 0] = torch.tensor([0.75, 0.0])
    measured = norms(images, adversarial)
    assert list(measured) == ["l0", "mean_l1", "l2", "linf"]
    assert [value.dtype.name for value in measured.values()] == ["int32", "float64", "float64", "float64"]
    assert measured["l0"].tolist() == [0, 2]
    assert measured["mean_l1"].tolist() == [0, 0.75 / 4]
    np.testing.assert_allclose(measured["l2"], [0, (0.25**2 + 0.5**2) ** 0.5])
    assert measured["linf"].tolist() == [0, 0.5]
    with pytest.raises(ValueError, match="shape"):
        norms(images, adversarial[:1])


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
    still = spec.Pgd(method="pgd", epsilon=(0.1,), steps=1, step_divisor=1e6)
    (batch,) = perturb(network, images, labels, ids, still, SEED)
    draw = seeds.uniform(SEED, ids, torch.zeros_like(ids), 48).view_as(images)
    torch.testing.assert_close(batch, images + 0.1 * (2 * draw - 1), rtol=0, atol=1e-6)
    (other,) = perturb(network, images, labels, ids, still, SEED + 1)
    assert (other - batch).abs().mean() > 0.01
    (clean,) = perturb(network, images, labels, ids, _like(still, random_start=False), SEED)
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
    (batch,) = perturb(network, images, labels, ids, _like(DEEPFOOL, overshoot=overshoot), SEED)
    np.testing.assert_allclose(norms(images, batch)["l2"], distance * (1 + overshoot), rtol=1e-3)
    assert overshoot < 0.01 or (_margins(network, batch, labels) < 0).all()


@pytest.mark.parametrize(
    "settings", [DEEPFOOL, _like(DEEPFOOL, rule="authors")], ids=lambda settings: settings.rule
)
def test_deepfool_passes_over_no_class_that_is_nearest(
    settings: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, settings, SEED)
    monkeypatch.setattr(sys.modules["harness.attacks.deepfool"], "_FAR", 1e9)
    (all_looked_at,) = perturb(network, images, labels, ids, settings, SEED)
    torch.testing.assert_close(batch, all_looked_at, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.05, 0.01])
def test_ddn_comes_within_gamma_of_the_boundary_of_two_classes(gamma: float, binary: Any) -> None:
    network, images, labels, ids, _ = (
        value[1:] if isinstance(value, Tensor) else value for value in binary
    )  # the first lies on it
    (batch,) = perturb(
        network, images, labels, ids, _like(DDN, steps=1000, gamma=gamma, initial_norm=0.1), SEED
    )
    assert (_margins(network, batch, labels) < 0).all()
    distance = _margins(network, images, labels) / (network.w[1] - network.w[0]).norm().detach()
    ratio = norms(images, batch)["l2"] / distance.numpy()
    assert (ratio >= 0.999).all()
    assert (ratio <= 1 + gamma + 0.001).all()


def test_ddn_returns_the_clean_image_where_it_fails(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, _like(DDN, steps=2, initial_norm=1e-3), SEED)
    assert torch.equal(batch, images)


def test_ddn_follows_gradients_whose_squares_vanish(binary: Any) -> None:
    """A network surer of its images has the same boundary."""
    network, images, labels, ids, _ = (value[1:] if isinstance(value, Tensor) else value for value in binary)
    sure = Linear(network.w.detach() * 25, network.b.detach() * 25).eval()
    assert 50 < _margins(sure, images, labels).max() < 100
    settings = _like(DDN, steps=300, initial_norm=0.1)
    (batch,), (expected,) = (perturb(model, images, labels, ids, settings, SEED) for model in (sure, network))
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-4)


def test_cw_l2_is_nearly_optimal_on_a_linear_network(linear: Any, distance: np.ndarray) -> None:
    network, images, labels, ids = linear
    settings = spec.CwL2(method="cw_l2", binary_search_steps=8, steps=200, learning_rate=0.01)
    (batch,) = perturb(network, images, labels, ids, settings, SEED)
    assert (_margins(network, batch, labels) < 0).all()
    ratio = norms(images, batch)["l2"] / distance
    # Not all: Adam's first step may be longer than the distance, and the hinge follows the class that leads now.
    assert (ratio >= 0.999).all()
    assert np.quantile(ratio, 0.8) <= 1.02


def test_a_warm_start_needs_fewer_steps(digits: Any) -> None:
    network, images, labels, ids = digits
    cold, warm = _like(CW, binary_search_steps=5, steps=100), _like(WARM, binary_search_steps=8, steps=20)
    (far,), (near,), (few,) = (
        perturb(network, images, labels, ids, s, SEED) for s in (cold, warm, _like(warm, warm_start=False))
    )
    assert (_margins(network, near, labels) < 0).all()
    length = [norms(images, batch)["l2"].mean() for batch in (far, near, few)]
    assert length[1] <= 1.03 * length[0] < 1.03 * length[2]


def test_cw_l2_passes_the_confidence_asked_for(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(network, images, labels, ids, _like(CW, confidence=1.0, binary_search_steps=5), SEED)
    moved = norms(images, batch)["l0"] > 0
    assert moved.any()
    assert (_margins(network, batch, labels)[moved] < -1).all()


def test_cw_l2_returns_the_clean_image_where_it_fails(digits: Any) -> None:
    network, images, labels, ids = digits
    (batch,) = perturb(
        network, images, labels, ids, _like(CW, initial_constant=1e-9, binary_search_steps=1), SEED
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
        network, images, labels, ids, spec.JsmaPairs(method="jsma_pairs", theta=theta, gamma=gamma), SEED
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
    settings = spec.CwL2(method="cw_l2", binary_search_steps=5, steps=100, initial_constant=0.01)
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
    assert (_margins(network, ours, labels) < 0).sum() >= (_margins(network, theirs, labels) < 0).sum()
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
    once = _like(EARLY, restarts=1)
    foolbox = perturb(network, images, labels, ids, PGD, SEED)
    for epsilon, batch, full in zip(
        PGD.epsilon, perturb(network, images, labels, ids, once, SEED), foolbox, strict=True
    ):
        path = _iterates(network, _start(images, ids, epsilon, 0), images, labels, PGD, epsilon)
        fooled = torch.stack([_margins(network, x, labels) < 0 for x in path])
        first = torch.where(fooled.any(0), fooled.int().argmax(0), len(path) - 1)
        expected = torch.stack(path)[first, torch.arange(len(images))]
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-6)
        assert torch.equal(_margins(network, batch, labels) < 0, _margins(network, full, labels) < 0)


@pytest.mark.parametrize("engine", ["foolbox", "early_stop"])
def test_a_restart_is_for_what_the_earlier_ones_left(engine: str, digits: Any) -> None:
    network, images, labels, ids = digits
    hard = _like(PGD, epsilon=(0.2,), steps=3, engine=engine)
    (one,), (three,) = (perturb(network, images, labels, ids, _like(hard, restarts=n), SEED) for n in (1, 3))
    fooled, now = _margins(network, one, labels) < 0, _margins(network, three, labels) < 0
    assert torch.equal(three[fooled], one[fooled])
    assert 0 < fooled.sum() < now.sum() < len(images)
    last = _iterates(network, _start(images, ids, 0.2, 2), images, labels, hard, 0.2)[-1]
    torch.testing.assert_close(three[~now], last[~now], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [case for case in CASES if getattr(case, "gradients", "") == "bfloat16"],
    ids=lambda s: s.method,
)
def test_low_precision_gradients_find_what_full_ones_find(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    low, full = (
        perturb(network, images, labels, ids, _like(settings, gradients=g), SEED)[-1]
        for g in ("bfloat16", "float32")
    )
    assert not torch.equal(low, full)
    assert (_margins(network, low, labels) < 0).sum() >= (_margins(network, full, labels) < 0).sum()
    assert norms(images, low)["l2"].mean() == pytest.approx(norms(images, full)["l2"].mean(), rel=0.03)


def test_low_precision_gradients_need_a_classifier(linear: Any) -> None:
    with pytest.raises(ValueError, match="need a networks.Classifier, got Linear"):
        perturb(*linear, _like(DDN, gradients="bfloat16"), SEED)


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
    (ours,) = perturb(network, images, labels, ids, _like(DEEPFOOL, overshoot=overshoot), SEED)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("theta", "gamma"), [(0.1, 1.0), (0.1, 0.1), (-0.25, 0.5)])
def test_jsma_is_identical_to_art(theta: float, gamma: float, digits: Any) -> None:
    network, images, labels, ids = digits
    classifier = _art(network)
    from art.attacks.evasion import SaliencyMapMethod

    targets = jsma_targets(labels, ids, 10, SEED).numpy()
    attack = SaliencyMapMethod(classifier, theta=theta, gamma=gamma, batch_size=1, verbose=False)
    theirs = attack.generate(images.numpy(), y=np.eye(10)[targets])
    settings = _like(JSMA, theta=theta, gamma=gamma)
    (ours,) = perturb(network, images, labels, ids, settings, SEED)
    assert np.array_equal(ours.numpy(), theirs)


def test_attacks_import_no_reference_until_it_is_used() -> None:
    assert not {"foolbox", "art", "eagerpy"} & set(vars(gradient_sign))
