"""Each check of a network: a planted fault that it alone finds, and networks in which none finds any."""

import itertools
from typing import Literal

import pytest
import torch
from conftest import images
from outside import outside_of
from torch import nn
from torch.nn import functional as F

from harness.checks import NETWORK_CHECKS, NetworkCase, results
from harness.networks.classifier import Architecture
from harness.networks.foreign import ForeignNetwork

CLASSES = 3
IMAGES = images(0, 12, CLASSES, shape=(1, 6, 6))


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


class Around(nn.Module):
    """A linear network, with something done to its images before or to its logits after."""

    def __init__(self, classes=CLASSES, before=None, after=None):
        super().__init__()
        self.linear = nn.Linear(36, classes)
        self.before, self.after = before, after

    def forward(self, x):
        if self.before is not None:
            x = self.before(x)
        logits = self.linear(x.flatten(1))
        return logits if self.after is None else self.after(logits)


class Trains(Around):
    def forward(self, x):
        self.train()
        return super().forward(x)


class Counts(Around):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Hides(Around):
    """Weights that no state dict has."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.randn(36, 36)

    def forward(self, x):
        return super().forward(x.flatten(1) @ self.matrix)


class OwnDraws(Around):
    """Noise that no seed of the global generators tells."""

    generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x + torch.rand(x.shape, generator=self.generator))


class Rigid(nn.Module):
    """What some networks begin with: a last layer of zeros."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
        nn.init.zeros_(self.body[1].weight)

    def forward(self, x):
        return self.body(x)


numbers = itertools.count(1)


def another_name():
    body = Around()
    body.add_module(f"spare_{next(numbers)}", nn.Linear(2, 2))
    return body


def other_weights():
    body = Around()
    body.linear.weight.data.mul_(next(numbers))
    return body


def fails():
    raise ZeroDivisionError("no such depth")


def quantised(x):
    """A gradient as if it were not: straight through."""
    return x + ((x > 0).float() - x).detach()


def regular():
    convolution, dropout = nn.Conv2d(1, 4, 3), nn.Dropout(0.5)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), dropout, nn.Linear(64, CLASSES)
    )


FAULTS = {
    "raises": (fails, "build", "ZeroDivisionError: no such depth"),
    "another name": (another_name, "factory", "spare_"),
    "other weights": (other_weights, "seed", "body.linear.weight"),
    "classes": (lambda: Around(2), "logits", "float32 [8, 2], where [8, 3] belongs to 3 classes"),
    "double": (lambda: Around(after=lambda z: z.double()), "logits", "float64 [8, 3]"),
    "not a number": (lambda: Around(after=lambda z: z / 0), "logits", "not finite"),
    "a pair": (lambda: Around(after=lambda z: (z, z)), "logits", "tuple"),
    "softmax": (lambda: Around(after=lambda z: z.softmax(1)), "scores", "sum to 1"),
    "softmax, enlarged": (lambda: Around(after=lambda z: 10 * z.softmax(1)), "scores", "sum to 10"),
    "log-softmax": (lambda: Around(after=lambda z: z.log_softmax(1)), "scores", "log-probabilities"),
    "trains": (Trains, "eval mode", "body"),
    "counts": (Counts, "weights", "body.calls"),
    "dropout": (lambda: Around(before=lambda x: F.dropout(x, 0.1)), "repeat", "the mean of 20 draws"),
    "its own generator": (OwnDraws, "repeat", "also from one seed"),
    "of the batch": (lambda: Around(before=lambda x: x - x.mean(0)), "batch", "alone"),
    "contrast": (lambda: Around(before=lambda x: x / x.var((1, 2, 3), keepdim=True)), "range", "black"),
    "detached": (lambda: Around(before=lambda x: x.detach()), "gradient", "cut off"),
    "rounded": (lambda: Around(before=lambda x: (16 * x).round() / 16), "gradient", "0 for 8 of 8 images"),
    "large logits": (lambda: Around(after=lambda z: 1e5 * z), "cross-entropy", "0 for 8 of 8 images"),
    "straight through": (lambda: Around(before=quantised), "difference", "quantised"),
    "hides": (Hides, "storage", "is not stored"),
    "last layer of zeros": (Rigid, "gradient", "before training"),
}
NOTES = {"log-softmax", "dropout", "large logits", "straight through", "last layer of zeros"}
MODELS = {"linear": Around, "regular": regular, **{name: fault[0] for name, fault in FAULTS.items()}}


class Made(Architecture):
    title = "made here"

    architecture: Literal["made"] = "made"
    name: str

    def body(self, channels, size, classes):
        return MODELS[self.name]()


def found(name, batch_size=64, limit_s=None):
    """The results that are not ok, and the names of all."""
    case = NetworkCase(Made(name=name), IMAGES.pixels, IMAGES.take(slice(8)), CLASSES, batch_size)
    made = list(results("it", case, NETWORK_CHECKS, limit_s))
    made = [result for result in made if result.status != "left out"]
    return [result for result in made if result.status != "ok"], [result.check for result in made]


@pytest.mark.parametrize("name", ["linear", "regular"])
def test_an_honest_network_passes_all(name):
    wrong, checked = found(name)
    assert (wrong, checked) == ([], [check.name for check in NETWORK_CHECKS])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_check_alone(name):
    _, check, words = FAULTS[name]
    (result,), _ = found(name)
    assert (result.check, result.status) == (check, "note" if name in NOTES else "failed")
    assert words in result.came
    assert result.said == f"expected {result.expected}; got {result.came}"


def test_the_same_module_again(tmp_path):
    with outside_of(tmp_path) as outside:
        source = "from torch import nn\nfrom harness import extensions\nlinear = nn.Linear(36, 3)\n"
        source += "body = nn.Sequential(nn.Flatten(), linear)\n"
        source += "@extensions.network\ndef shared(channels, size, classes): return body\n"
        shared = ForeignNetwork(use=f"{outside.module(source)}:shared")
        case = NetworkCase(shared, IMAGES.pixels, IMAGES, CLASSES, 64)
        (result,) = [one for one in results("it", case, NETWORK_CHECKS) if one.status == "failed"]
    assert result.check == "factory"
    assert "should make a new module at every call, got one again" in result.came


def test_memory_of_a_batch_is_counted_and_may_be_too_much():
    """The linear layer keeps its input, 36 float32 an image, and the normalisation one for all 8."""
    (result,), _ = found("linear", 10**15)
    assert (result.check, result.status) == ("memory", "failed")
    assert result.came.startswith("144,500,000.0 GB for a batch of 1000000000000000, and there are")


def test_a_check_that_takes_too_long():
    def waits():
        torch.manual_seed(0)
        while True:
            pass

    MODELS["waits"] = waits
    wrong, checked = found("waits", limit_s=0.05)
    assert checked == ["build"]
    assert wrong[0].came == "nothing within 0.05 s"
