"""What networks, attacks and defenses from outside make: the same as built-in ones, and checked."""

import random

import numpy as np
import pytest
import torch
from conftest import images
from outside import ATTACK, DEFENSE, NETWORK, outside_of

from harness.attacks import Attack, perturb
from harness.attacks.deepfool import DeepFool
from harness.attacks.foreign import ForeignAttack
from harness.defenses.foreign import ForeignDefense
from harness.errors import HarnessError
from harness.networks.build import build as build_network
from harness.networks.classifier import as_input
from harness.networks.convnet import ConvNet
from harness.networks.foreign import ForeignNetwork
from harness.networks.objective import Inputs, InTraining

SEED = 7
IMPORT = "from harness import extensions\n"
PIXELS = images(0, 12, 3, shape=(1, 6, 6)).pixels


@pytest.fixture
def outside(tmp_path):
    with outside_of(tmp_path) as there:
        yield there


@pytest.fixture
def package(outside):
    return outside.package(nets=NETWORK, attacks=ATTACK, defenses=DEFENSE)


class Noise(Attack):
    """The package's attack written as one of the harness's own."""

    title = "Noise"
    method: str = "noise"
    epsilon: tuple[float, ...]

    def cost(self, classes, values):
        return 0

    def perturb(self, network, images, labels, ids, seed, batch_size):
        from harness.attacks.guard import seeded

        results = []
        for epsilon in self.epsilon:
            moved = []
            for x, its in zip(images.split(batch_size), ids.split(batch_size), strict=True):
                with seeded(seed, its, epsilon):
                    for _ in range(2):
                        noise = torch.rand_like(x) + random.random() + float(np.random.rand())
                        x = (x + (noise - 1.5).sign() * epsilon / 2).clamp(0, 1)
                moved.append(x)
            results.append(torch.cat(moved))
        return results


def attacked(attack, count=12, batch_size=5):
    network = build_network(ConvNet(width=4), PIXELS, 3, 0).eval()
    x = as_input(torch.from_numpy(PIXELS))[:count]
    labels, ids = torch.zeros(count, dtype=torch.int64), torch.arange(count) + 50
    before = x.clone()
    made = perturb(network, x, labels, ids, attack, SEED, batch_size)
    assert torch.equal(x, before)
    return made


def test_an_attack_is_the_same_from_outside_as_built_in(package):
    """Bit for bit, whatever other radii are asked for, and though it writes into its images."""
    mine = ForeignAttack(use=f"{package}.attacks:noise", settings={"epsilon": [0.05, 0.2]})
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    made = attacked(mine)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(states[0], after[0]) and states[1:] == after[1:]
    own = attacked(Noise(epsilon=(0.05, 0.2)))
    assert all(torch.equal(a, b) for a, b in zip(made, own, strict=True))
    assert not torch.equal(made[0], as_input(torch.from_numpy(PIXELS)))
    assert torch.equal(attacked(mine.with_epsilons((0.2,)))[0], made[1])
    assert torch.equal(attacked(mine, count=5)[0], made[0][:5]), "the first batch alone"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", r"{}.f should return a float32 tensor \(5, 1, 6, 6\), got NoneType"),
        ("return images[:1]", r"{}.f should return torch.float32 \(5, .*, got torch.float32 \(1, 1, 6, 6\)"),
        ("return images.double()", "{}.f should return torch.float32 .*, got torch.float64"),
        ("return images + epsilon * 1.1", "{}.f left the linf ball of radius 0.1|not in"),
        ("return images - 2", r"{}.f returned values that are not finite or not in \[0, 1\]"),
        ("return images * float('nan')", "{}.f returned values that are not finite"),
        ("exit(3)", r"{}.f called exit\(3\)"),
    ],
)
def test_attacks_that_break_their_word(outside, body, message):
    head = f"{IMPORT}@extensions.attack(norm='linf', cost=1)\n"
    name = outside.module(f"{head}def f(network, images, labels, ids, seed, *, epsilon: float): {body}\n")
    with pytest.raises(RuntimeError, match=message.format(name)):
        attacked(ForeignAttack(use=f"{name}:f", settings={"epsilon": 0.1}))


WHOLE = """
from harness import extensions
from harness.attacks.deepfool import DeepFool

@extensions.attack(norm="l2", cost=40)
def deepfool(network, images, labels, ids, seed, batch_size, *, steps: int = 100):
    (made,) = DeepFool(method="deepfool", steps=steps).perturb(network, images, labels, ids, seed, batch_size)
    return made
"""


def test_an_attack_may_make_its_own_batches(outside):
    """DeepFool handed on, with all images of a block: those that are done make room for others as always."""
    network = build_network(ConvNet(width=2), PIXELS, 3, 0).eval()
    x = as_input(torch.from_numpy(PIXELS))
    labels, ids = network(x).argmax(1), torch.arange(len(x))
    theirs = ForeignAttack(use=f"{outside.module(WHOLE)}:deepfool")
    (made,) = perturb(network, x, labels, ids, theirs, SEED, 4)
    (built_in,) = perturb(network, x, labels, ids, DeepFool(method="deepfool"), SEED, 4)
    assert torch.equal(made, built_in) and not torch.equal(made, x)


def test_a_network_is_what_its_factory_makes(package):
    network = build_network(ForeignNetwork(use=f"{package}.nets:linear", settings={"width": 5}), PIXELS, 3, 1)
    assert network.body[1].weight.shape == (5, 36)
    again = build_network(ForeignNetwork(use=f"{package}.nets:linear", settings={"width": 5}), PIXELS, 3, 1)
    assert torch.equal(network.body[3].weight, again.body[3].weight), "drawn by seed"


def test_factories_that_make_something_else(outside):
    head = f"{IMPORT}import torch\nonly = torch.nn.Identity()\n"
    head += "@extensions.network\ndef f(channels, size, classes): "
    other, same = outside.module(f"{head}return 3\n"), outside.module(f"{head}return only\n")
    with pytest.raises(HarnessError, match=f"{other}.f should return an nn.Module, got int"):
        ForeignNetwork(use=f"{other}:f").body(1, (8, 8), 10)
    ForeignNetwork(use=f"{same}:f").body(1, (8, 8), 10)
    with pytest.raises(HarnessError, match=f"{same}.f should make a new module at every call"):
        ForeignNetwork(use=f"{same}:f").body(1, (8, 8), 10)


def inputs():
    return Inputs(torch.from_numpy(PIXELS), torch.arange(12) % 3, torch.arange(12))


def test_a_defense_is_the_objective_that_its_function_makes(package):
    defense = ForeignDefense(use=f"{package}.defenses:smooth", settings={"epsilon": 0.25, "copies": 2})
    objective = defense.objective(inputs(), SEED)
    network = build_network(ConvNet(width=4), PIXELS, 3, 0).eval()
    in_training = InTraining(network, network, torch.device("cpu"), "float32")
    x = inputs()
    plain = torch.nn.functional.cross_entropy(network(x.clean(x.ids)), x.labels, reduction="none")
    torch.testing.assert_close(objective.loss(in_training, x.ids + 12, 1), 0.75 * plain)
    assert objective.samples == 24


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "should return an Objective, got int"),
        ("return Objective(0, print)", "should return an Objective of at least one sample and a loss, got"),
        ("return Objective(3, None)", "should return an Objective of at least one sample and a loss, got"),
    ],
)
def test_objectives_that_are_none(outside, body, message):
    head = f"{IMPORT}from harness.networks.objective import Objective\n@extensions.defense\n"
    name = outside.module(f"{head}def f(inputs, seed): {body}\n")
    with pytest.raises(HarnessError, match=f"{name}.f {message}"):
        ForeignDefense(use=f"{name}:f").objective(inputs(), SEED)
