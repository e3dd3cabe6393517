"""VGG16: torchvision's function and weights, in less work on small images."""

import copy

import numpy as np
import pytest
import torch
from conftest import images
from torch import nn
from torch.nn import functional as F

from harness.errors import HarnessError
from harness.networks import vgg16
from harness.networks.build import build
from harness.networks.classifier import from_tensors, to_tensors
from harness.networks.vgg16 import Vgg16
from harness.networks.weights import fitted


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_vgg16(shape):
    network = build(Vgg16(), images(0, 8, 2, shape=shape).pixels, 2, seed=0).eval()
    with torch.no_grad():
        assert network(torch.rand(2, *shape)).shape == (2, 2)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (2, 7)])
def test_distinct_windows_train_as_their_copies_do(size):
    """Pooling to 7 x 7 and a linear layer, as torchvision's: same outputs, gradients and Adam's steps."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(5 * 49, 4)
    ).double()
    short = copy.deepcopy(plain)
    alike = [vgg16._alike(side) for side in size]
    short[1], short[3] = vgg16._Windows(*alike), vgg16._WindowLinear(short[3], *alike).double()
    stored = plain.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in short.state_dict().items())
    x = torch.randn(6, 3, *size, dtype=torch.float64)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.01) for network in (plain, short)]
    for _ in range(4):
        for network, optimizer in zip((plain, short), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
        assert torch.allclose(plain(x), short(x))
        assert torch.allclose(plain[0].weight.grad, short[0].weight.grad)
    found = short.state_dict()
    assert all(torch.allclose(value, found[name], atol=1e-12) for name, value in plain.state_dict().items())
    again = nn.Sequential(
        nn.Conv2d(3, 5, 1),
        vgg16._Windows(*alike),
        nn.Flatten(),
        vgg16._WindowLinear(nn.Linear(5 * 49, 4), *alike),
    )
    again.double().load_state_dict(found)
    assert torch.allclose(again(x), plain(x))
    with pytest.raises(ValueError, match="images of another size"):
        short(torch.randn(1, 3, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "trained"), [((1, 28, 28), 2), ((3, 64, 64), 18)])
def test_vgg16_is_torchvisions(vgg_state, shape, trained):
    """Logits, and the gradients that attacks follow, in double.

    2**20 weights are trained in the first linear layer, of 98.
    """
    from torchvision.models import vgg16

    network = build(Vgg16(), images(0, 8, 2, shape=shape).pixels, 1000, seed=0).eval().double()
    network.body.vgg.load_state_dict(vgg_state)
    assert network.body.vgg.classifier[0].weight.numel() == trained * 2**20
    plain = vgg16(weights=None).eval().double()
    plain.load_state_dict(vgg_state)
    found = []
    for forward in (
        network.body,
        lambda x: plain(F.pad(x.expand(-1, 3, -1, -1), (2, 2, 2, 2)) if len(x[0]) == 1 else x),
    ):
        x = torch.rand(
            2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        logits = forward(x)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6 * float(found[1][1].abs().max()))


@pytest.fixture(scope="module")
def vgg_state():
    from torchvision.models import vgg16

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return vgg16(weights=None).state_dict()


def test_pretrained_from_safetensors(tmp_path, vgg_state):
    from safetensors.torch import save_file

    path = tmp_path / "vgg.safetensors"
    save_file(vgg_state, path)
    spec = Vgg16(pretrained=True, weights=str(path))
    network = build(spec, images(0, 8, 2, shape=(3, 32, 32)).pixels, 7, seed=0)
    found = network.body.vgg.state_dict()
    assert torch.equal(found["features.0.weight"], vgg_state["features.0.weight"])
    assert torch.equal(found["classifier.3.weight"], vgg_state["classifier.3.weight"])
    assert found["classifier.6.weight"].shape == (7, 4096)
    assert torch.allclose(network.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert len(spec.initial_weights()) == 64
    # Grey images: what was stored loads into a network built without the file.
    grey = images(0, 8, 2, shape=(1, 28, 28)).pixels
    stored = to_tensors(build(spec, grey, 7, seed=0))
    moved = spec.model_copy(update={"weights": str(tmp_path / "gone")})
    again = from_tensors(build(moved, grey, 7, seed=1, initial=False), stored, torch.device("cpu"))
    assert all(np.array_equal(value, stored[name]) for name, value in to_tensors(again).items())
    save_file({"features.0.weight": vgg_state["features.0.weight"]}, path)
    words = r"weights: '.*vgg.safetensors' in VGG16: 29 of 30 tensors differ: vgg.features.0.bias: missing; "
    with pytest.raises(HarnessError, match=words):
        spec.check(3, (32, 32), 7)


def test_own_weights_in_torchvisions_layout(tmp_path, vgg_state):
    """The whole network's, its last layer too: torchvision's logits, and its tensors in what is stored."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        theirs = vgg16(weights=None).eval()
    theirs.load_state_dict(vgg_state, assign=True)
    path = tmp_path / "vgg.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in vgg_state.items()}}, path)
    spec = Vgg16(weights=str(path), mean=(0.5,) * 3, std=(0.2,) * 3)
    words = r"2 of 32 .*: vgg.classifier.6.weight: expected \[9, 4096\], got \[1000, 4096\]; vgg.classifier.6"
    with pytest.raises(HarnessError, match=words):
        spec.check(3, (32, 32), 9)
    tensors = spec.read_initial()
    for shape in ((3, 32, 32), (3, 64, 64)):
        network = build(spec, images(0, 8, 2, shape=shape).pixels, 1000, seed=0, tensors=tensors).eval()
        x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, found = theirs((x - 0.5) / 0.2), network(x)
        # Pooled windows are computed once and not as copies: another order of sums.
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    stored = network.state_dict()
    assert all(torch.equal(stored[f"body.vgg.{name}"], value) for name, value in vgg_state.items())
    with torch.device("meta"):
        expected = spec.body(3, (32, 32), 1000).state_dict()
    assert fitted(stored, expected, (), "").keys() == expected.keys()  # a stored network's own names


def test_no_weights_and_no_network_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    spec = Vgg16(pretrained=True)
    with pytest.raises(
        HarnessError, match=r"no route to host.*network.weights=FILE.*network.pretrained=false"
    ):
        spec.initial_weights()
    with pytest.raises(HarnessError, match=r"no file 'nowhere'.*network.pretrained=false"):
        Vgg16(pretrained=True, weights="nowhere").initial_weights()
