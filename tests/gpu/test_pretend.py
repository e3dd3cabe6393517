"""The harness on a pretend device: no devices mixed, the CPU's values, no more launches and syncs than said.

A GPU's speed, for small images, is how often it is asked and waited for. Less than in ``BUDGET`` is welcome.
"""

import math
from copy import deepcopy

import numpy as np
import pretend
import pytest
import torch
from pretend import CPU, MixedDevices, OnDevice
from torch import nn
from workloads import WORKLOADS, Place, on_cpu, on_device, row

from harness import networks
from harness.evaluation import blocks
from harness.networks.classifier import to_tensor
from harness.networks.device import device

SLACK = 1.05
# Rounding decides how many steps these take: they stop on a boundary, or train what they attack.
LOOSE, LOOSE_SLACK = ("deepfool", "gradients=bfloat16", "fragility", "study"), 1.5

# Launches and host syncs of each, in all: PYTHONPATH=tests python tests/gpu/workloads.py
BUDGET = {
    "training base, convnet, float32": (211, 6),
    "training base, convnet, bfloat16": (292, 6),
    "training imperceptible_bound, convnet, float32": (727, 6),
    "training imperceptible_bound, convnet, bfloat16": (808, 6),
    "training adversarial_images, convnet, float32": (335, 6),
    "training adversarial_images, convnet, bfloat16": (470, 6),
    "training pgd_training, convnet, float32": (1066, 6),
    "training pgd_training, convnet, bfloat16": (1291, 6),
    "training trades, convnet, float32": (1252, 6),
    "training trades, convnet, bfloat16": (1519, 6),
    "training ensemble, convnet, float32": (415, 6),
    "training ensemble, convnet, bfloat16": (586, 6),
    "training no_noise, convnet, float32": (226, 6),
    "training no_noise, convnet, bfloat16": (307, 6),
    "training noise_labels, convnet, float32": (715, 6),
    "training noise_labels, convnet, bfloat16": (796, 6),
    "state and restore, convnet": (50, 100),
    "training base, vgg16, float32": (482, 6),
    "training base, vgg16, bfloat16": (692, 6),
    "training imperceptible_bound, vgg16, float32": (998, 6),
    "training imperceptible_bound, vgg16, bfloat16": (1208, 6),
    "training adversarial_images, vgg16, float32": (728, 6),
    "training pgd_training, vgg16, float32": (1832, 6),
    "training trades, vgg16, float32": (2102, 6),
    "training trades, vgg16, bfloat16": (2768, 6),
    "training ensemble, vgg16, float32": (935, 6),
    "training no_noise, vgg16, float32": (497, 6),
    "training noise_labels, vgg16, float32": (986, 6),
    "state and restore, vgg16": (131, 262),
    "attack fgsm": (119, 10),
    "attack deepfool": (3308, 59),
    "attack deepfool rule=authors": (3273, 54),
    "attack jsma": (1135, 13),
    "attack jsma theta=-0.25": (1146, 13),
    "attack jsma_pairs": (1142, 19),
    "attack cw_l2": (3309, 62),
    "attack cw_l2 warm_start=True": (3585, 74),
    "attack ddn": (1108, 9),
    "attack pgd": (927, 14),
    "attack pgd restarts=3": (2031, 20),
    "attack pgd restarts=3 engine=early_stop": (2185, 41),
    "attack apgd_ce": (2363, 36),
    "attack apgd_ce restarts=2": (2874, 42),
    "attack apgd_ce norm=l2": (997, 22),
    "attack apgd_ce norm=l1": (6179, 44),
    "attack apgd_t": (1884, 28),
    "attack apgd_t norm=l1": (9442, 48),
    "attack fab_t": (3835, 67),
    "attack fab_t norm=l2 restarts=2": (963, 28),
    "attack fab_t norm=l1": (1291, 19),
    "attack fmn": (1408, 9),
    "attack fmn norm=l1": (4688, 9),
    "attack fmn norm=linf": (1360, 9),
    "attack square": (2595, 221),
    "attack square restarts=2": (5083, 432),
    "attack square norm=l2": (3130, 213),
    "attack square norm=l1": (6664, 213),
    "attack autoattack": (5771, 180),
    "attack deepfool gradients=bfloat16": (3474, 63),
    "attack cw_l2 warm_start=True gradients=bfloat16": (3925, 110),
    "attack ddn gradients=bfloat16": (1452, 13),
    "attack pgd gradients=bfloat16": (1015, 18),
    "attack pgd restarts=3 engine=early_stop gradients=bfloat16": (1816, 63),
    "attack fmn gradients=bfloat16": (1752, 13),
    "attack apgd_ce gradients=bfloat16": (2607, 57),
    "attack apgd_t gradients=bfloat16": (5801, 105),
    "attack pgd, vgg16": (1851, 14),
    "attack cw_l2, vgg16": (3858, 50),
    "attack pgd, drawing": (2566, 14),
    "attack apgd_ce, drawing": (4383, 49),
    "attack square, drawing": (3895, 221),
    "robustness checks": (41436, 2445),
    "fragility": (2889, 56),
    "certificates": (17023, 53),
    "bound random, all pairs, torch": (615, 32),
    "bound random, all pairs, faiss": (615, 32),
    "bound random, filtered, torch": (2577, 275),
    "bound random, filtered, faiss": (2577, 275),
    "bound ties everywhere, all pairs, torch": (855, 38),
    "bound ties everywhere, all pairs, faiss": (855, 38),
    "bound ties everywhere, filtered, torch": (3088, 335),
    "bound ties everywhere, filtered, faiss": (3088, 335),
    "bound sums past 2^24, all pairs, torch": (147, 14),
    "bound sums past 2^24, all pairs, faiss": (147, 14),
    "bound sums past 2^24, filtered, torch": (291, 45),
    "bound sums past 2^24, filtered, faiss": (291, 45),
    "study": (17425, 1212),
}  # fmt: skip

pytestmark = pytest.mark.skipif(not pretend.IS_POSSIBLE, reason="a GPU is here, or torch takes no other")


@pytest.fixture(autouse=True)
def _one_thread(_threads):
    torch.set_num_threads(1)


def over_budget(name: str, place: Place) -> str:
    """What to do about it; nothing where it is within."""
    slack = LOOSE_SLACK if any(word in name for word in LOOSE) else SLACK
    launches, syncs = (math.ceil(slack * value) for value in BUDGET.get(name, (0, 0)))
    if place.counted.launches <= launches and place.counted.syncs <= syncs:
        return ""
    most = place.counted.synced.most_common(4), place.counted.launched.most_common(4)
    return (
        f"at most {launches} launches and {syncs} syncs expected of '{name}'\n"
        f"steps, launches and syncs a step, all:\n{row(name, place)}\n"
        f"most syncs: {most[0]}\nmost launches: {most[1]}\n"
        "If that has to be, let the line above stand in BUDGET."
    )


def test_every_workload_has_a_budget():
    assert list(BUDGET) == list(WORKLOADS), (
        "PYTHONPATH=tests python tests/gpu/workloads.py says what to write"
    )


@pytest.mark.parametrize("name", WORKLOADS)
def test_values_are_the_cpus_within_the_budget(name):
    found, place = on_device(WORKLOADS[name])
    assert_same(found, on_cpu(WORKLOADS[name]))
    assert place.steps
    assert not (much := over_budget(name, place)), much


def assert_same(found, expected):
    """To the last bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_equal(found[name], value, err_msg=name)


# --- the device itself ------------------------------------------------------------------------------------


def there(*values: float) -> torch.Tensor:
    return torch.tensor(values, device=pretend.device())


here = torch.tensor([1.0, 2.0])
WRONG = {
    "arithmetic": lambda: there(1, 2) + here,
    "matrices": lambda: there(1, 2) @ here,
    "to the host": lambda: here.clone().add_(there(1, 2)),
    "a number of the device to the host": lambda: here.clone().add_(there(1)[0]),
    "together": lambda: torch.cat([there(1, 2), here]),
    "gather": lambda: there(1, 2).gather(0, torch.tensor([0])),
    "an index on the device into the host": lambda: here[there(1).long()],
    "values that are put": lambda: there(1, 2).index_put_((there(0, 1).long(),), here),
    "where": lambda: torch.where(there(1, 2) > 1, there(1, 2), here),
    "a layer": lambda: nn.Linear(2, 3)(there(1, 2)),
}


@pytest.mark.parametrize("name", WRONG)
def test_mixed_devices_raise(name):
    with pytest.raises(MixedDevices), pretend.pretended():
        WRONG[name]()


def test_mixed_devices_raise_also_where_that_is_caught():
    with pytest.raises(MixedDevices, match="1 times"), pretend.pretended():
        with pytest.raises(MixedDevices):
            there(1, 2) + here


def test_arrays_are_of_the_host():
    with pretend.pretended():
        with pytest.raises(TypeError, match="rgpu:0"):
            there(1, 2).numpy()
        x = there(1, 2)
    with pytest.raises(RuntimeError, match="within pretended"):
        x + x


ASKED = {
    "arithmetic": (lambda x: x + 1, 1, 0),
    "a number on the host": (lambda x: x * torch.tensor(2.0), 1, 0),
    "views": (lambda x: x[1:].view(-1, 1).T.detach(), 0, 0),
    "memory": (lambda x: torch.empty_like(x), 0, 0),
    "in place": (lambda x: x.add_(1).mul_(2), 2, 0),
    "from the host": (lambda x: here.to(x.device), 0, 1),
    "from the host, not waited for": (lambda x: here.to(x.device, non_blocking=True), 1, 0),
    "made of numbers": (lambda x: torch.tensor([1.0], device=x.device), 0, 1),
    "to the host": (lambda x: x.cpu(), 0, 1),
    "a number": (lambda x: x[0].item(), 0, 1),
    "five numbers in a loop": (lambda x: [x[0].item() for _ in range(5)], 0, 5),
    "a list": (lambda x: x.tolist(), 0, 1),
    "a condition": (lambda x: bool((x > 1).any()), 2, 1),
    "positions": (lambda x: x.nonzero(), 1, 1),
    "a mask": (lambda x: x[x > 1], 3, 1),
    "values put by a mask": (lambda x: x.index_put_((x > 0,), x + 1), 4, 1),
    "a number put by a mask": (lambda x: x.masked_fill_(x > 1, 0), 2, 0),
    "an index": (lambda x: x[torch.arange(2, device=x.device)], 2, 0),
    "an index on the host": (lambda x: x[torch.tensor([0])], 1, 1),
    "equality": (lambda x: torch.equal(x, x), 1, 1),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("inference", [False, True])
def test_what_is_counted(name, inference):
    ask, launches, syncs = ASKED[name]
    with pretend.pretended() as work, torch.inference_mode(inference):
        x = there(1, 2)
        before = work.copy()
        ask(x)
        asked = work.since(before)
    assert (asked.launches, asked.syncs) == (launches, syncs), (asked.launched, asked.synced)


def test_gradients_are_the_cpus_and_counted():
    def loss(on):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2).to(on)
        layer(torch.arange(6.0, device=on).view(2, 3)).square().sum().backward()
        return layer.weight.grad

    expected = loss(CPU)
    with pretend.pretended() as work:
        found = loss(pretend.device())
        assert isinstance(found, OnDevice) and torch.equal(found.cpu(), expected)
    assert work.launched["aten::mm"] == 1


def test_modules_move_and_are_copied():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).requires_grad_(False)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    with pretend.pretended():
        network.to(pretend.device()).to(memory_format=torch.channels_last)
        copied = deepcopy(network)
        for moved in (network, copied):
            assert {value.device.type for value in moved.state_dict().values()} == {pretend.NAME}
        copied[0].weight.zero_()
        found = {name: value.cpu() for name, value in network.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_harness_computes_there_meanwhile():
    before = device()
    with pretend.pretended():
        assert networks.device.device() == blocks.device() == torch.device(pretend.NAME)
    assert networks.device.device is device and blocks.device is device and device() == before


def test_more_than_the_budget_says_what_to_write(monkeypatch):
    def looks(place: Place):
        x = to_tensor(np.arange(3), place.on)
        with place.counting(2):
            return {"seen": [x[0].item() for _ in range(60)]}

    monkeypatch.setitem(BUDGET, "looks", (0, 50))
    _, place = on_device(looks)
    assert '"looks": (0, 60),' in over_budget("looks", place)
    assert "('aten::_local_scalar_dense', 60)" in over_budget("looks", place)
    monkeypatch.setitem(BUDGET, "looks", (0, 58))
    assert not over_budget("looks", place)
