"""Gradients to images by blocks of pixels: what autograd says of the same layer."""

import copy
from typing import Any

import pytest
import torch
from attack_cases import SEED
from torch import Tensor, nn

from harness.attacks import first_layer, perturb
from harness.attacks.first_layer import quick_first_layer
from harness.attacks.gradient_sign import Fgsm
from harness.networks.classifier import Classifier, low_precision

FGSM = Fgsm(method="fgsm", epsilon=(0.1,))


def network(
    channels: int = 1, width: int = 16, side: int = 3, padding: int = 1, **changes: Any
) -> Classifier:
    """A convolution and a linear layer, channels last, frozen: what an attack gets."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Conv2d(channels, width, side, **{"padding": padding, **changes})
        body = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))
    made = Classifier(body, (0.5,) * channels, (0.25,) * channels)
    return made.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def images(count: int = 4, channels: int = 1, height: int = 16, width: int = 20) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    outputs = model(x)
    weights = torch.linspace(-1, 1, outputs.shape[1]).cos()
    return torch.autograd.grad((outputs * weights).sum(), x)[0]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that gradients were computed by."""
    blocks: list[int] = []
    blocked = first_layer._blocked

    def counted(weight: Tensor, block: int) -> Tensor:
        blocks.append(block)
        return blocked(weight, block)

    monkeypatch.setattr(first_layer, "_blocked", counted)
    return blocks


@pytest.mark.parametrize(("channels", "block"), [(1, 4), (2, 2), (3, 2)])
@pytest.mark.parametrize(("side", "padding"), [(1, 0), (3, 0), (3, 1), (3, 2), (5, 2), (2, 1)])
def test_gradients_are_autograds(channels: int, block: int, side: int, padding: int, used: list[int]) -> None:
    model = network(channels, side=side, padding=padding)
    x = images(channels=channels)
    expected = gradient(copy.deepcopy(model).double(), x.double()).float()
    with quick_first_layer(model):
        made = gradient(model, x)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    assert used == [block]


def test_low_precision_copies_have_it_and_compute_as_precisely(used: list[int]) -> None:
    model, x = network(), images()
    expected = gradient(low_precision(model), x)
    with quick_first_layer(model):
        made = gradient(low_precision(model), x)
    assert used == [4]
    torch.testing.assert_close(made, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_a_second_derivative_can_be_taken() -> None:
    model, x = network(), images().requires_grad_()
    results = []
    for quick in (False, True):
        with quick_first_layer(model if quick else nn.Identity()):
            (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            results.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(results[1], results[0])
    assert results[0].abs().max() > 0


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (network(stride=2), images()),
        (network(dilation=2), images()),
        (network(padding_mode="reflect"), images()),
        (network(padding="same"), images()),
        (network(5), images(channels=5)),
        (network(2, groups=2), images(channels=2)),
        (network(), images(3)),
        (network(), images(height=15)),
        (network(), images(height=8, width=8)),
        (network().double(), images().double()),
        (network(3).to(memory_format=torch.contiguous_format), images(channels=3)),
        (network().requires_grad_(True), images()),
    ],
    ids=lambda value: "" if isinstance(value, Tensor) else "network",
)
def test_all_else_is_computed_as_ever(model: nn.Module, x: Tensor, used: list[int]) -> None:
    expected = gradient(model, x)
    with quick_first_layer(model):
        made = gradient(model, x)
    assert not used
    assert torch.equal(made, expected)


def test_outputs_are_the_same_and_the_network_is_left_as_it_was() -> None:
    model, x = network(), images()
    with quick_first_layer(model):
        assert "forward" in vars(model.body[0])
        with torch.no_grad():
            inside = model(x)
    assert "forward" not in vars(model.body[0])
    with torch.no_grad():
        assert torch.equal(inside, model(x))
    with pytest.raises(RuntimeError), quick_first_layer(model):
        raise RuntimeError
    assert "forward" not in vars(model.body[0])


def test_the_harness_own_attacks_take_it(used: list[int]) -> None:
    model, x = network(), images()
    perturb(model, x, model(x).argmax(1), torch.arange(len(x)), FGSM, SEED)
    assert used
