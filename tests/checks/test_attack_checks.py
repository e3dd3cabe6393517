"""Each check of an attack: a planted fault that it alone finds, and attacks in which none finds any."""

import itertools
import random
import time
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from conftest import images

from harness.attacks.attack import Attack
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.checks import ATTACK_CHECKS, AttackCase, results
from harness.networks.build import build
from harness.networks.convnet import ConvNet
from harness.settings import Epsilons

CLASSES = 3
IMAGES = images(0, 8, CLASSES, shape=(1, 6, 6))
SMALLEST, LARGEST = 0.05, 0.3


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


def network():
    built = build(ConvNet(architecture="convnet", width=4), IMAGES.pixels, CLASSES, 1)
    return built.eval().requires_grad_(False)


def moved(x, epsilon):
    """Towards the other end of [0, 1]."""
    return x + epsilon * torch.where(x > 0.5, -1, 1)


def honest(network, x, ids, epsilon):
    return moved(x, epsilon)


numbers = itertools.count(1)
memory = {"last": -1, "calls": 0}


def leaves_the_range(network, x, ids, epsilon):
    return x + epsilon


def leaves_a_small_ball(network, x, ids, epsilon):
    return moved(x, max(epsilon, 0.1))


def leaves_a_large_ball(network, x, ids, epsilon):
    return moved(x, epsilon if epsilon < 0.2 else 0.4)


def is_no_number(network, x, ids, epsilon):
    return x / 0


def is_cropped(network, x, ids, epsilon):
    return x[..., 1:]


def raises(network, x, ids, epsilon):
    raise IndexError("no pixel 36")


def changes_its_arguments(network, x, ids, epsilon):
    ids += 1
    return moved(x, epsilon)


def changes_weights(network, x, ids, epsilon):
    next(network.parameters()).mul_(1.01)
    return moved(x, epsilon)


def leaves_a_hook(network, x, ids, epsilon):
    network.body[0].register_forward_hook(lambda *given: None)
    return moved(x, epsilon)


def leaves_gradients(network, x, ids, epsilon):
    network.body[0].weight.grad = torch.ones_like(network.body[0].weight)
    return moved(x, epsilon)


def leaves_its_mode(network, x, ids, epsilon):
    network.train()
    return moved(x, epsilon)


def leaves_weights_trainable(network, x, ids, epsilon):
    network.requires_grad_(True)
    return moved(x, epsilon)


def seeds_torch(network, x, ids, epsilon):
    torch.manual_seed(0)
    return moved(x, epsilon)


def seeds_numpy(network, x, ids, epsilon):
    np.random.seed(0)
    return moved(x, epsilon)


def seeds_random(network, x, ids, epsilon):
    random.seed(0)
    return moved(x, epsilon)


def takes_threads(network, x, ids, epsilon):
    torch.set_num_threads(3)
    return moved(x, epsilon)


def draws_anew(network, x, ids, epsilon):
    return moved(x, epsilon / next(numbers))


def carries_over(network, x, ids, epsilon):
    """From one batch to the next, until images come that are no later ones."""
    made = []
    for image_ids, part in zip(ids.split(4), x.split(4), strict=True):
        memory["calls"] = 1 + (memory["calls"] if image_ids[0] > memory["last"] else 0)
        memory["last"] = image_ids[0]
        made.append(moved(part, epsilon / memory["calls"]))
    return torch.cat(made)


def does_nothing(network, x, ids, epsilon):
    return x


FAULTS = {
    leaves_the_range: ("images", "not in [0, 1]"),
    leaves_a_small_ball: ("images", "left the linf ball of radius 0.05"),
    leaves_a_large_ball: ("images", "left the linf ball of radius 0.3"),
    is_no_number: ("images", "not finite"),
    is_cropped: ("images", "unlike the images"),
    raises: ("images", "IndexError: no pixel 36"),
    changes_its_arguments: ("arguments", "ids"),
    changes_weights: ("network", "weights body.0.weight"),
    leaves_a_hook: ("network", "hooks of body.0"),
    leaves_gradients: ("network", "grad of body.0.weight"),
    leaves_its_mode: ("network", "mode of the network"),
    leaves_weights_trainable: ("network", "requires_grad of body.0.weight"),
    seeds_torch: ("process", "torch's generator"),
    seeds_numpy: ("process", "numpy's generator"),
    seeds_random: ("process", "random's generator"),
    takes_threads: ("process", "torch's threads"),
    draws_anew: ("repeat", "8 of 8 that differ by up to"),
    carries_over: ("batches", "4 of 8 that differ by up to 0.025 at epsilon 0.05"),
    does_nothing: ("effect", "0 of 8 changed, 0 left their class"),
}
ATTACKS = {attack.__name__: attack for attack in (honest, *FAULTS)}


class Planted(Attack):
    title: ClassVar[str] = "planted"
    is_limited: ClassVar[bool] = True

    method: Literal["planted"] = "planted"
    name: str
    epsilon: Epsilons = (SMALLEST, 0.1, LARGEST)

    def cost(self, classes, values):
        return 1

    def perturb(self, network, images, labels, ids, seed, batch_size):
        return [ATTACKS[self.name](network, images, ids, epsilon) for epsilon in self.epsilons]


@pytest.fixture(autouse=True)
def _generators_as_they_were():
    of_numpy, of_random = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        yield
    np.random.set_state(of_numpy)
    random.setstate(of_random)


def found(attack, block_limit_s=600.0, limit_s=None):
    """The results that are not ok, and the names of all."""
    case = AttackCase(attack, network, IMAGES, "prediction", 64, block_limit_s)
    made = list(results("it", case, ATTACK_CHECKS, limit_s))
    made = [result for result in made if result.status != "left out"]
    return [result for result in made if result.status != "ok"], [result.check for result in made]


@pytest.mark.parametrize(
    "attack",
    [
        Planted(name="honest"),
        Fgsm(method="fgsm", epsilon=(0.1, 0.5)),
        Pgd(method="pgd", epsilon=(0.5,), steps=3),
    ],
)
def test_an_honest_attack_passes_all(attack):
    wrong, checked = found(attack)
    assert [result for result in wrong if attack.method != "planted" or result.check != "effect"] == []
    assert checked == [check.name for check in ATTACK_CHECKS]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_check_alone(fault):
    check, words = FAULTS[fault]
    wrong, _ = found(Planted(name=fault.__name__))
    (result,) = [one for one in wrong if one.check == check or one.check != "effect"]
    assert (result.check, result.status) == (check, "note" if check == "effect" else "failed")
    assert words in result.came


def test_a_block_that_would_be_stopped():
    wrong, _ = found(Planted(name="honest"), block_limit_s=1e-9)
    assert ("time", "note") in [(one.check, one.status) for one in wrong]
    assert wrong[-1].came.endswith("and is stopped after 1e-09 s (compute.block_limit_s)")
    assert "a block of 64 images" in wrong[-1].came


def test_an_attack_that_hangs():
    def hangs(network, x, ids, epsilon):
        end = time.monotonic() + 10  # or the tests would hang where nothing stops it
        while time.monotonic() < end:
            pass

    ATTACKS["hangs"] = hangs
    wrong, checked = found(Planted(name="hangs"), limit_s=0.05)
    assert checked == ["images"]
    assert wrong[0].came == "nothing within 0.05 s"
