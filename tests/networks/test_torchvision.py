"""torchvision's and timm's models by name: the functions that they are there, with stems for small images."""

import importlib.util
import sys

import pytest
import torch
from conftest import images
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from harness.errors import HarnessError
from harness.networks import imagenet
from harness.networks.build import build
from harness.networks.classifier import from_tensors, low_precision, to_tensors
from harness.networks.timm import Timm
from harness.networks.torchvision import Torchvision

HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed: pip install 'harness[timm]'")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(17)  # no seed of a network here


def close(found, expected, share=1e-5):
    """Layouts sum in other orders: equal to a share of the largest logit."""
    return torch.allclose(found, expected, rtol=0, atol=share * float(expected.abs().max()))


def body(spec, shape=(3, 32, 32), classes=7):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return spec.body(shape[0], shape[1:], classes).eval()


def convolution(network):
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


def last_map(network, shape):
    """Height and width of the last map before the linear layer."""
    seen = []
    pooling = [layer for layer in network.modules() if "Pool" in type(layer).__name__][-1]
    pooling.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    with torch.no_grad():
        assert network(torch.rand(2, *shape)).shape == (2, 7)
    return seen[0]


RESNETS = [Torchvision(model="resnet18")] + ([Timm(model="resnet18")] if HAS_TIMM else [])


@pytest.mark.parametrize("spec", RESNETS, ids=lambda spec: spec.title)
@pytest.mark.parametrize(
    ("shape", "stem", "side"),
    [
        ((3, 32, 32), "auto", 4),
        ((1, 28, 28), "small", 4),
        ((3, 64, 64), "auto", 8),
        ((3, 72, 72), "auto", 3),
        ((3, 32, 32), "own", 1),
    ],
)
def test_resnets_begin_as_asked_for(spec, shape, stem, side):
    """Three halvings with the small stem, five with the model's own."""
    network = body(spec.model_copy(update={"stem": stem}), shape)
    first = convolution(network)
    is_small = side > 3
    assert (first.kernel_size, first.stride) == (((3, 3), (1, 1)) if is_small else ((7, 7), (2, 2)))
    assert any(isinstance(layer, nn.MaxPool2d) for layer in network.modules()) != is_small
    assert last_map(network, shape) == (side, side)


MODELS = ["densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"]
TIMMS = ["densenet121", "efficientnet_b0", "mobilenetv3_small_050", "regnety_002", "resnetv2_50"]


@pytest.mark.parametrize(
    "spec",
    [Torchvision(model=name) for name in [*MODELS, "shufflenet_v2_x0_5"]]
    + ([Timm(model=name) for name in TIMMS] if HAS_TIMM else []),
    ids=lambda spec: spec.title,
)
def test_other_small_stems(spec):
    """Each keeps the images' size up to its second convolution, where its own would have halved it."""
    network, seen = body(spec), []
    second = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][1]
    second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert seen == [32]


@pytest.mark.parametrize(
    "spec",
    [Torchvision(model="vgg11", stem="small")]
    + ([Timm(model="resnet18d", stem="small")] if HAS_TIMM else []),
    ids=lambda spec: spec.title,
)
def test_a_small_stem_that_is_not_known(spec):
    with pytest.raises(HarnessError, match="no small one that is known; plain models of DenseNet, .*ResNet"):
        spec.check(3, (32, 32), 10)


def test_own_weights_give_torchvisions_logits(tmp_path):
    """Of a whole ResNet-18 with its own stem, colour and grey, with statistics of its own."""
    theirs = models.resnet18(weights=None, num_classes=7).eval()
    for layer in theirs.modules():  # what a training leaves behind
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    spec = Torchvision(
        model="resnet18", stem="own", weights=str(tmp_path / "theirs.pth"), mean=(0.4,) * 3, std=(0.2,) * 3
    )
    for shape in ((3, 40, 40), (1, 28, 28)):
        spec.check(shape[0], shape[1:], 7)
        network = build(spec, images(0, 8, 7, shape=shape).pixels, 7, seed=0).eval()
        x = torch.rand(4, *shape)
        with torch.no_grad():
            expected = theirs((x.expand(-1, 3, -1, -1) - 0.4) / 0.2)
            assert close(network(x), expected)
            assert (network(x) - expected[:, :1]).abs().max() > 1e-3  # logits that tell networks apart
            # Stored with three of each, whatever the images' own statistics are.
            without = Torchvision(model="resnet18", stem="own")
            again = from_tensors(
                build(without, images(0, 8, 7, shape=shape).pixels, 7, seed=1, initial=False),
                to_tensors(network),
                torch.device("cpu"),
            )
            assert close(again(x), expected)
            assert close(low_precision(again)(x), expected, 0.05)
    small = spec.model_copy(update={"stem": "small"})
    words = r"1 of \d+ tensors differ: network.conv1.weight: expected \[64, 3, 3, 3\], got \[64, 3, 7, 7\]"
    with pytest.raises(HarnessError, match=words):
        small.check(3, (32, 32), 7)
    with pytest.raises(
        HarnessError, match=r"network.fc.weight: expected \[9, 512\], got \[7, 512\]; network.fc"
    ):
        spec.check(3, (32, 32), 9)


def test_pretrained_weights_fill_all_but_what_was_drawn_anew(tmp_path):
    theirs = models.resnet18(weights=None).state_dict()  # of ImageNet's 1000 classes
    counters = [name for name in theirs if name.endswith("num_batches_tracked")]
    older = {name: value for name, value in theirs.items() if name not in counters}
    save_file(older, tmp_path / "imagenet.safetensors")
    spec = Torchvision(model="resnet18", pretrained=True, weights=str(tmp_path / "imagenet.safetensors"))
    spec.check(1, (32, 32), 1000)
    assert spec.statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for stem, drawn in (
        ("auto", {"conv1.weight", "fc.weight", "fc.bias"}),
        ("own", {"fc.weight", "fc.bias"}),
    ):
        network = build(
            spec.model_copy(update={"stem": stem}), images(0, 8, 7, shape=(1, 28, 28)).pixels, 1000, seed=0
        )
        found = network.body.network.state_dict()
        differing = {n for n, value in older.items() if not torch.equal(found[n], value)}
        assert differing == drawn
        assert network.mean.numel() == 3


def test_pretrained_statistics_are_those_of_the_training():
    """EfficientNetV2-L's was normalised with .5, unlike the others."""
    assert Torchvision(model="efficientnet_v2_l", pretrained=True).statistics() == ((0.5,) * 3, (0.5,) * 3)
    assert Torchvision(model="resnet18").statistics() is None
    given = Torchvision(model="resnet18", pretrained=True, mean=(0.1,), std=(0.2,))
    assert given.statistics() == ((0.1,), (0.2,))


def test_the_file_in_torchs_cache_is_known_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir()
    path.write_bytes(b"something else")
    spec = Torchvision(model="resnet18", pretrained=True)
    with pytest.raises(HarnessError, match=f"'{path}' is not torchvision's {path.name}: its sha256 differs"):
        spec.initial_weights()
    monkeypatch.setattr(imagenet, "digest", lambda _: "f37072fd" + 56 * "0")
    assert spec.initial_file() == path


def test_names_in_torchvisions_files_of_densenets(tmp_path):
    """'norm.1' is called 'norm1' since a name may have no dots."""
    state = models.densenet121(weights=None, num_classes=7).state_dict()
    dotted = {
        (name.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in name else name): value
        for name, value in state.items()
    }
    assert len(dotted.keys() - state.keys()) == 58 * 6
    torch.save(dotted, tmp_path / "densenet121.pth")
    spec = Torchvision(model="densenet121", weights=str(tmp_path / "densenet121.pth"), stem="own")
    assert spec.read_initial().keys() == state.keys()


def test_models_with_further_outputs_return_logits(tmp_path):
    """Also in training, and weights of a network that has them fit."""
    theirs = models.googlenet(weights=None, num_classes=7, aux_logits=True, init_weights=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "googlenet.pt")
    spec = Torchvision(model="googlenet", weights=str(tmp_path / "googlenet.pt"))
    network = build(spec, images(0, 8, 7, shape=(3, 32, 32)).pixels, 7, seed=0)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs((x - network.mean) / network.std)
        assert close(network.eval()(x), expected)
        assert network.train()(x).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet19", "torchvision has no model 'resnet19'; did you mean 'resnet18'"),
        ("quantized_resnet", "torchvision has no model 'quantized_resnet'"),
        ("fcn_resnet50", "torchvision has no model 'fcn_resnet50'"),
        ("nothing", "torchvision has no model 'nothing'; none of its [0-9]+ is called alike"),
        ("mnasnet1_0", "torchvision has no model 'mnasnet1_0'"),
    ],
)
def test_names_that_torchvision_does_not_know(model, words):
    with pytest.raises(ValueError, match=words):
        Torchvision(model=model)


@needs_timm
def test_names_that_timm_does_not_know():
    with pytest.raises(
        ValueError, match="timm has no model 'vit_tiny_patch16'; did you mean 'vit_tiny_patch16_"
    ):
        Timm(model="vit_tiny_patch16")
    with pytest.raises(ValueError, match="timm has no model 'hf-hub:someone/else'"):
        Timm(model="hf-hub:someone/else")


def test_timm_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'harness\[timm\]'"):
        Timm(model="resnet18")
    with pytest.raises(HarnessError, match=r"pip install 'harness\[timm\]'"):
        Timm.model_construct(model="resnet18").body(3, (32, 32), 10)


@needs_timm
def test_transformers_take_the_images_size():
    spec = Timm(model="vit_tiny_patch16_224")
    network = body(spec)
    assert network.patch_embed.num_patches == 4
    spec.check(1, (48, 32), 10)
    with pytest.raises(
        HarnessError, match="timm vit_tiny_patch16_224 does not take images of 1 x 8 x 8: Runtime"
    ):
        spec.check(1, (8, 8), 10)


@pytest.mark.parametrize(
    ("model", "size"), [("squeezenet1_1", (8, 8)), ("vit_b_32", (28, 28)), ("maxvit_t", (32, 32))]
)
def test_images_that_a_model_does_not_take(model, size):
    with pytest.raises(
        HarnessError, match=f"torchvision {model} does not take images of 3 x {size[0]} x {size[1]}: "
    ):
        Torchvision(model=model).check(3, size, 10)


class Wrong(Torchvision):
    """A kind whose networks return something else."""

    def body(self, channels, size, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 9))


class NotFinite(Torchvision):
    """A kind whose networks return logits that are not finite."""

    def body(self, channels, size, classes):
        layer = nn.Linear(channels * size[0] * size[1], classes)
        nn.init.constant_(layer.bias, torch.nan)
        return nn.Sequential(nn.Flatten(), layer)


def test_a_network_that_returns_something_else():
    with pytest.raises(HarnessError, match=r"expected logits \[2, 10\] of 2 images, got \[2, 9\]"):
        Wrong(model="resnet18").check(3, (8, 8), 10)
    with pytest.raises(HarnessError, match=r"expected finite logits, got \[nan, nan, nan\]"):
        NotFinite(model="resnet18").check(3, (8, 8), 10)
