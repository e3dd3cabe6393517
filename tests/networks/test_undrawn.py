"""Networks made for stored weights: not drawn first, and then the same ones."""

import numpy as np
import pytest
import torch
from conftest import images
from torch import nn

from harness.networks import NETWORKS, ConvNet, Torchvision, Vgg16
from harness.networks.build import blank, build
from harness.networks.classifier import Architecture, as_input, from_tensors, to_tensors
from harness.networks.undrawn import Undrawn

CPU = torch.device("cpu")
# (swin_t and densenet121, which take a minute, were tried as well)
MODELS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")
SPECS = [ConvNet(width=4), Vgg16(), *(Torchvision(model=model) for model in MODELS)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.title)
def test_stored_weights_make_the_same_network(spec):
    data = images(0, 4, 3, shape=(3, 32, 32))
    drawn = build(spec, data.pixels, 3, seed=5)
    stored, x = to_tensors(drawn), as_input(torch.from_numpy(data.pixels))
    state = torch.get_rng_state()
    empty = blank(spec, data.pixels, 3)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    filled = from_tensors(empty, stored, CPU)
    expected = from_tensors(build(spec, data.pixels, 3, seed=6), stored, CPU)
    with torch.no_grad():
        assert torch.equal(filled(x), expected(x))
    again = to_tensors(filled)
    assert again.keys() == stored.keys()
    assert all(np.array_equal(again[name], value) for name, value in stored.items())


def test_only_draws_are_left_out():
    state = torch.get_rng_state()
    with Undrawn():
        layer = nn.BatchNorm2d(3)
        linear = nn.Linear(5, 2)
        computed = torch.linspace(0, 1, 5) ** 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer.running_var, torch.ones(3)) and torch.equal(layer.weight, torch.ones(3))
    assert linear.weight.shape == (2, 5)
    assert torch.equal(computed, torch.linspace(0, 1, 5) ** 2)


def test_a_kind_that_may_keep_draws_to_itself_is_drawn():
    class Projected(Architecture):
        """Draws a tensor that is neither parameter nor buffer."""

        architecture: str = "projected"

        def body(self, channels, size, classes):
            network = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
            network.drawn = torch.empty(3).normal_()
            return network

    assert not any(NETWORKS[name].stores_draws for name in ("foreign", "timm"))
    pixels = images(0, 4, 3, shape=(1, 6, 6)).pixels
    assert torch.equal(blank(Projected(), pixels, 3).body.drawn, build(Projected(), pixels, 3, 0).body.drawn)
