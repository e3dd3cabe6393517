"""Networks: [0, 1] in, logits out; deterministic; their weights stored and read again."""

import numpy as np
import pytest
import torch
from conftest import images

from harness.errors import HarnessError
from harness.networks import NETWORKS, ConvNet
from harness.networks.build import build
from harness.networks.classifier import Architecture, as_input, from_tensors, logits, predict, to_tensors

CONVNET = ConvNet(width=4)


def test_each_kind_is_listed_under_its_own_word():
    for name, kind in NETWORKS.items():
        assert kind.model_fields["architecture"].default == name
        assert kind.title and kind.revision >= 0
    with pytest.raises(TypeError, match="abstract"):
        Architecture(architecture="convnet")


def test_a_kind_has_settings_of_its_own():
    assert NETWORKS["vgg16"](pretrained=False).initial_weights() is None
    assert CONVNET.initial_weights() is None
    with pytest.raises(ValueError, match="pretrained"):
        NETWORKS["convnet"].model_validate({"pretrained": True})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 9, 13)])
def test_convnet(shape):
    pixels = images(0, 10, 3, shape=shape).pixels
    network = build(CONVNET, pixels, 3, seed=1).eval()
    assert network(as_input(torch.from_numpy(pixels))).shape == (10, 3)
    again = build(CONVNET, pixels, 3, seed=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = build(CONVNET, pixels, 3, seed=2)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build(CONVNET, images(0, 10, 3).pixels, 3, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_normalisation_is_inside():
    pixels = images(0, 50, 3, shape=(3, 8, 8)).pixels
    network = build(CONVNET, pixels, 3, seed=0)
    seen = []
    network.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(as_input(torch.from_numpy(pixels)))
    assert seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (seen[0].std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


def test_constant_images_do_not_divide_by_zero():
    pixels = np.zeros((4, 1, 8, 8), np.uint8)
    assert build(CONVNET, pixels, 2, 0)(torch.zeros(1, 1, 8, 8)).isfinite().all()


def test_round_trip_and_frozen():
    pixels = images(0, 10, 3).pixels
    first = build(CONVNET, pixels, 3, seed=1).eval()
    second = from_tensors(build(CONVNET, pixels, 3, seed=2), to_tensors(first), torch.device("cpu"))
    assert not second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert np.array_equal(
        predict(first, pixels, 4, torch.device("cpu")),
        predict(second, pixels, 7, torch.device("cpu")),
    )


def test_uint8_and_float_images_give_the_same():
    pixels = images(0, 10, 3).pixels
    network = build(CONVNET, pixels, 3, seed=1)
    a, b = (
        torch.cat(list(logits(network, x, 4, torch.device("cpu"))))
        for x in (pixels, pixels.astype(np.float32) / 255)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 3, 8)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(HarnessError, match="at least 4 x 4 pixels, got"):
        build(CONVNET, images(0, 4, 2, shape=shape).pixels, 2, 0)
