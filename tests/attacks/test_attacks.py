"""All attacks: what they have in common, from one table of cases, and the door that checks them."""

import sys
from types import SimpleNamespace
from typing import Any, get_args

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import (
    APGD,
    CASES,
    CW,
    DDN,
    DEEPFOOL,
    EARLY,
    FAB,
    FGSM,
    FMN,
    FROM_OUTSIDE,
    JSMA,
    PAIRS,
    PGD,
    SEED,
    Linear,
    like,
    margins,
)
from torch import nn

from harness.attacks import ATTACKS, gradient_sign, norms, perturb
from harness.attacks.batch import State, compacted
from harness.attacks.gradient_sign import Fgsm
from harness.networks.build import build
from harness.networks.convnet import ConvNet

cases = pytest.mark.parametrize(
    "settings", CASES, ids=lambda settings: f"{settings.method}-{getattr(settings, 'gradients', '')}"
)


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Any:
    return attack_cases.digits()


@pytest.fixture
def linear() -> Any:
    return attack_cases.linear()


def test_the_list_names_every_attack_by_its_method() -> None:
    for name, attack in ATTACKS.items():
        assert get_args(attack.model_fields["method"].annotation) == (name,)
    assert len({attack.title for attack in ATTACKS.values()}) == len(ATTACKS)
    assert {case.method for case in CASES} == set(ATTACKS) - FROM_OUTSIDE


def test_epsilons_are_those_of_the_settings() -> None:
    assert FGSM.epsilons == FGSM.epsilon
    assert PGD.epsilons == PGD.epsilon
    assert DEEPFOOL.epsilons == (None,)


@cases
def test_returns_images_and_leaves_the_network_as_it_was(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    network.body.body[0].bias.requires_grad_(False)
    before, clean = {key: value.clone() for key, value in network.state_dict().items()}, images.clone()
    result = perturb(network, images, labels, ids, settings, SEED)
    epsilons = [1.0 if epsilon is None else epsilon for epsilon in settings.epsilons]
    assert len(result) == len(epsilons)
    for batch, epsilon in zip(result, epsilons, strict=True):
        assert batch.shape == images.shape
        assert batch.dtype == torch.float32
        assert not batch.requires_grad
        assert batch.min() >= 0
        assert batch.max() <= 1
        assert (batch - images).abs().max() <= epsilon + 1e-6
    fooled = (margins(network, result[-1], labels) < 0).float().mean().item()
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


@pytest.mark.parametrize(
    "settings", [DEEPFOOL, JSMA, PAIRS, CW, EARLY, APGD, FAB], ids=lambda settings: settings.method
)
def test_states_have_one_layout(settings: Any, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, labels, ids = digits
    seen: list[State] = []

    def watched(state: State, *rest: Any, **named: Any) -> torch.Tensor:
        seen.append(state)
        return compacted(state, *rest, **named)

    for name, module in [*sys.modules.items()]:
        if name.startswith("harness.attacks.") and hasattr(module, "compacted"):
            monkeypatch.setattr(module, "compacted", watched)
    perturb(network, images[:8], labels[:8], ids[:8], settings, SEED)
    assert seen
    for state in seen:
        assert len({len(value) for value in state.values()}) == 1, "a row an image"
        points = [state[name] for name in ("x", "kept", "clean") if name in state]
        assert {value.shape[1:] for value in points} == {images.shape[1:]}
        assert state.keys() & {"x", "kept"}
        if "step" in state:
            assert state["step"].dtype == torch.int64


@pytest.mark.parametrize("settings", [DEEPFOOL, CW, DDN, FMN], ids=lambda settings: settings.method)
@pytest.mark.parametrize("channels", [1, 3])
def test_strides_say_nothing(channels: int, settings: Any) -> None:
    """Grey images have strides in any layout, and kernels are chosen by them."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(6, channels, 8, 8, generator=random)
    network = build(ConvNet(width=4), (images * 255).byte().numpy(), 3, 0).eval()
    odd = images.contiguous(memory_format=torch.channels_last)
    odd = odd.as_strided(odd.shape, (channels * 64, 1, 8 * channels, channels))
    labels, ids = network(images).argmax(1), torch.arange(6)
    for model in (network, network.to(memory_format=torch.channels_last)):
        (plain,), (strided,) = (perturb(model, x, labels, ids, settings, SEED) for x in (images, odd))
        assert torch.equal(plain, strided)


@pytest.mark.parametrize("settings", [DEEPFOOL, CW, DDN, FMN], ids=lambda settings: settings.method)
def test_images_that_have_left_their_label_stay_as_they_are(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 10
    (batch,) = perturb(network, images, wrong, ids, settings, SEED)
    assert torch.equal(batch[::2], images[::2])
    assert (margins(network, batch[1::2], wrong[1::2]) < 0).all()


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
    with pytest.raises(ValueError, match="expected the settings of an attack, got SimpleNamespace"):
        perturb(network, images, labels, ids, SimpleNamespace(method="fgsm"), SEED)  # type: ignore[arg-type]
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
    monkeypatch.setattr(Fgsm, "perturb", lambda fgsm, n, x, *rest: [broken(x, e) for e in fgsm.epsilon])
    with pytest.raises(RuntimeError, match=expected):
        perturb(network, images, labels, ids, FGSM, SEED)


def test_norms_are_those_of_the_perturbation() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    adversarial = images.clone()
    adversarial[1, 0, 0] = torch.tensor([0.75, 0.0])
    measured = norms(images, adversarial)
    assert list(measured) == ["l0", "mean_l1", "l1", "l2", "linf"]
    assert [value.dtype.name for value in measured.values()] == ["int32", *["float64"] * 4]
    assert measured["l0"].tolist() == [0, 2]
    assert measured["mean_l1"].tolist() == [0, 0.75 / 4]
    np.testing.assert_allclose(measured["l2"], [0, (0.25**2 + 0.5**2) ** 0.5])
    assert measured["linf"].tolist() == [0, 0.5]
    with pytest.raises(ValueError, match="shape"):
        norms(images, adversarial[:1])


@pytest.mark.parametrize(
    "settings",
    [case for case in CASES if getattr(case, "gradients", "") == "bfloat16"],
    ids=lambda s: s.method,
)
def test_low_precision_gradients_find_what_full_ones_find(settings: Any, digits: Any) -> None:
    network, images, labels, ids = digits
    low, full = (
        perturb(network, images, labels, ids, like(settings, gradients=g), SEED)[-1]
        for g in ("bfloat16", "float32")
    )
    assert not torch.equal(low, full)
    assert (margins(network, low, labels) < 0).sum() >= (margins(network, full, labels) < 0).sum()
    assert norms(images, low)["l2"].mean() == pytest.approx(norms(images, full)["l2"].mean(), rel=0.03)


def test_low_precision_gradients_need_a_classifier(linear: Any) -> None:
    with pytest.raises(ValueError, match="need a Classifier, got Linear"):
        perturb(*linear, like(DDN, gradients="bfloat16"), SEED)


def test_attacks_import_no_reference_until_it_is_used() -> None:
    assert not {"foolbox", "art", "eagerpy"} & set(vars(gradient_sign))
