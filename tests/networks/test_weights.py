"""Own weights: read without running code, held against the network, with the logits of their own network."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import images
from safetensors.torch import save_file
from torch import nn

from harness.errors import HarnessError
from harness.networks import ConvNet, Vgg16
from harness.networks.build import build
from harness.networks.classifier import as_input, from_tensors, to_tensors
from harness.networks.weights import read

PIXELS = images(0, 8, 3, shape=(3, 8, 8)).pixels
BATCH = as_input(torch.from_numpy(PIXELS))


@pytest.fixture(scope="module")
def theirs():
    """A network with weights that no other draw has, and statistics that no images here have."""
    network = build(ConvNet(width=4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), PIXELS, 3, seed=11)
    return network.eval().requires_grad_(False)


def convnet(path, **settings):
    return ConvNet(width=4, weights=str(path), **settings)


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("plain.safetensors", lambda state: state),
        ("plain.pt", lambda state: state),
        ("nested.pth", lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}),
        ("deeper.pt", lambda state: {"model": {"model_state_dict": prefixed("module.", state)}}),
        ("prefixed.safetensors", lambda state: prefixed("module.model.", state)),
        ("legacy.pth", lambda state: state),  # the format of torchvision's older files
        ("double.pt", lambda state: {name: value.double() for name, value in state.items()}),
    ],
)
def test_weights_of_a_file_are_the_networks(theirs, tmp_path, name, wrapped):
    path, state = tmp_path / name, wrapped(dict(theirs.body.state_dict()))
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "legacy")
    spec = convnet(path, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    spec.check(3, (8, 8), 3)
    assert spec.initial_weights() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(build(spec, PIXELS, 3, seed=0).eval()(BATCH), theirs(BATCH))
    tensors = spec.read_initial()
    path.unlink()  # what was read once is enough for all who load it
    assert torch.equal(build(spec, PIXELS, 3, seed=0, tensors=tensors).eval()(BATCH), theirs(BATCH))
    drawn = build(spec, PIXELS, 3, seed=0, initial=False).eval()
    assert not torch.equal(drawn(BATCH), theirs(BATCH))
    with pytest.raises(HarnessError, match=f"weights: no file '{path}'"):
        spec.initial_weights()


def test_half_precision_is_read_as_float32(theirs, tmp_path):
    torch.save(
        {name: value.bfloat16() for name, value in theirs.body.state_dict().items()}, tmp_path / "b.pt"
    )
    found = build(convnet(tmp_path / "b.pt"), PIXELS, 3, seed=0).body.state_dict()
    for name, value in theirs.body.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value.bfloat16().float())


def test_a_stored_network_keeps_its_statistics(theirs, tmp_path):
    path = tmp_path / "stored.safetensors"
    save_file(theirs.state_dict(), path)
    convnet(path).check(3, (8, 8), 3)
    network = build(convnet(path), PIXELS, 3, seed=0).eval()
    assert torch.equal(network(BATCH), theirs(BATCH))
    other = build(convnet(path, mean=(0.5,) * 3, std=(0.25,) * 3), PIXELS, 3, seed=0)
    assert other.mean.flatten().tolist() == [0.5] * 3
    assert other.std.flatten().tolist() == [0.25] * 3
    # Without the file: the network that others get comes from the store, with its statistics.
    again = from_tensors(
        build(convnet("gone"), PIXELS, 3, 0, initial=False), to_tensors(network), torch.device("cpu")
    )
    assert torch.equal(again(BATCH), theirs(BATCH))


class Normalised(nn.Module):
    """A network with tensors called mean and std that is not one of the harness's."""

    def __init__(self):
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(2, 2)


def test_mean_and_std_of_another_network_are_its_own(tmp_path):
    from harness.networks.weights import fitted, statistics

    torch.save(Normalised().state_dict(), tmp_path / "own.pt")
    tensors = read(tmp_path / "own.pt")
    assert statistics(tensors) is None
    assert fitted(tensors, Normalised().state_dict(), (), "these").keys() == tensors.keys()


def change(state, name, value):
    return {**state, name: value}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda s: change(s, "0.weight", torch.zeros(4, 3, 7, 7)),
            r"1 of 12 tensors differ: 0.weight: expected \[4, 3, 3, 3\], got \[4, 3, 7, 7\]$",
        ),
        (lambda s: {n: v for n, v in s.items() if n != "2.bias"}, "1 of 12 tensors differ: 2.bias: missing$"),
        (lambda s: change(s, "20.weight", torch.zeros(2)), "1 of 12 tensors differ: 20.weight: not known$"),
        (
            lambda s: change(s, "2.bias", torch.zeros(4).long()),
            "2.bias: expected torch.float32, got torch.int64$",
        ),
        (
            lambda s: change(s, "2.bias", torch.tensor([0, 1, 2, torch.nan])),
            "2.bias: not all values are finite$",
        ),
        (  # finite, but not as float32
            lambda s: change(s, "2.bias", torch.full((4,), 1e300, dtype=torch.float64)),
            "2.bias: not all values are finite$",
        ),
        (
            lambda s: {name: value[:1] for name, value in s.items()},
            r"12 of 12 tensors differ: 0.weight: [^;]*; 0.bias: [^;]*; 2.weight: [^;]*; \.\.\.$",
        ),
        (lambda s: change(s, "epoch", 3), r"dense tensors alone, by name, got 'epoch' \(int\)$"),
        (
            lambda s: change(s, "0.bias", torch.ones(4).to_sparse()),
            r"dense tensors alone, .*'0.bias' \(Tensor\)$",
        ),
        (lambda s: {}, "holds no tensors by name"),
        (lambda s: list(s.values()), "holds no tensors by name"),
        (
            lambda s: nn.Linear(2, 2),
            r"cannot be read as tensors alone: .*torch.nn.modules.linear.Linear.*\. Save",
        ),
    ],
)
def test_other_weights_are_refused_before_work(theirs, tmp_path, changed, words):
    path = tmp_path / "theirs.pt"
    torch.save(changed(dict(theirs.body.state_dict())), path)
    with pytest.raises(HarnessError, match=words) as raised:
        convnet(path).check(3, (8, 8), 3)
    assert "\n" not in str(raised.value)
    assert f"'{path}'" in str(raised.value)
    with pytest.raises(HarnessError, match=words):
        build(convnet(path), PIXELS, 3, seed=0)


def test_files_that_are_damaged(theirs, tmp_path):
    torch.save(theirs.body.state_dict(), tmp_path / "whole.pt")
    save_file(theirs.body.state_dict(), tmp_path / "whole.safetensors")
    for name in ("whole.pt", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        for length in (0, 10, len(content) // 2):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(
                HarnessError, match="weights: '.*' (cannot be read|is not a safetensors file)"
            ):
                read(tmp_path / name)


def test_a_checkpoint_that_holds_itself(tmp_path):
    checkpoint = {"a": torch.zeros(1)}
    checkpoint["model"] = checkpoint
    torch.save(checkpoint, tmp_path / "loop.pt")
    with pytest.raises(HarnessError, match=r"got 'model' \(dict\)"):
        read(tmp_path / "loop.pt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": [0.5]}, "std: required where 'mean' is given"),
        ({"std": [0.5]}, "mean: required where 'std' is given"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "std: should have a value for each of 'mean', 1, got 2"),
        ({"mean": [0.5], "std": [0.0]}, "greater than 0"),
        ({"mean": [], "std": []}, "at least 1 item"),
    ],
)
def test_statistics_that_do_not_fit_together(settings, words):
    import json

    with pytest.raises(ValueError, match=words):
        ConvNet.model_validate_json(json.dumps(settings))


def test_statistics_of_other_channels(theirs, tmp_path):
    grey = {"mean": (0.5,), "std": (0.5,)}
    with pytest.raises(HarnessError, match="expected 3 values for images of 3 channels, got 1 and 1"):
        ConvNet(**grey).check(3, (8, 8), 3)
    colour = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(HarnessError, match="expected 1 values for images of 1 channels, got 3 and 3"):
        ConvNet(**colour).check(1, (8, 8), 3)
    Vgg16(**colour).check(1, (28, 28), 3)  # it repeats grey images to three channels
    Vgg16(**grey).check(1, (28, 28), 3)
    with pytest.raises(HarnessError, match="at least 4 x 4 pixels, got 1 x 3 x 9"):
        ConvNet().check(1, (3, 9), 3)
    path = tmp_path / "stored.safetensors"
    save_file({**theirs.state_dict(), "std": torch.tensor([1.0, 0.0, 1.0])}, path)
    with pytest.raises(HarnessError, match="std above 0"):
        convnet(path).check(3, (8, 8), 3)


def test_keys_are_those_from_before_statistics_could_be_given():
    assert ConvNet(width=4).identity() == {"architecture": "convnet", "width": 4}
    assert Vgg16(pretrained=True).identity() == {"architecture": "vgg16", "pretrained": True}
    given = ConvNet(width=4, weights="of the digest", mean=(0.5,), std=(0.2,)).identity()
    assert given == {"architecture": "convnet", "width": 4, "mean": [0.5], "std": [0.2]}


def test_checking_the_harnesss_own_builds_nothing(monkeypatch):
    monkeypatch.setattr(Vgg16, "body", None)
    monkeypatch.setattr(ConvNet, "body", None)
    Vgg16().check(3, (32, 32), 10)
    ConvNet().check(3, (32, 32), 10)


def test_checking_leaves_the_global_generator_alone(theirs, tmp_path):
    save_file(theirs.body.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    convnet(tmp_path / "w.safetensors").check(3, (8, 8), 3)
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(to_tensors(theirs)["mean"].ravel(), np.float32([0.1, 0.2, 0.3]))
