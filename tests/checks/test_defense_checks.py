"""Each check of a defense: a planted fault that it alone finds, and defenses in which none finds any."""

import itertools
from typing import ClassVar, Literal

import pytest
import torch
from conftest import images

from harness.checks import DEFENSE_CHECKS, DefenseCase, results
from harness.defenses.defense import Defense
from harness.defenses.ensemble import Ensemble
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.defenses.trades import Trades
from harness.networks.objective import Needs, Objective, cross_entropy

CLASSES = 3
IMAGES = images(0, 8, CLASSES, shape=(1, 6, 6))
numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


def plain(inputs, network, indices):
    return cross_entropy(network(inputs.clean(indices)), inputs.labels[indices])


def uses_the_bound(inputs, network, indices, epoch):
    return plain(inputs, network, indices) * inputs.distance[indices]


def uses_all(inputs, network, indices, epoch):
    outputs = inputs.other_bases[0](inputs.clean(indices)).sum(1)
    return uses_the_bound(inputs, network, indices, epoch) + outputs + inputs.base_outputs[indices, 0]


def honest(inputs, network, indices, epoch):
    return plain(inputs, network, indices)


def raises(inputs, network, indices, epoch):
    raise IndexError("no sample 7")


def exits(inputs, network, indices, epoch):
    raise SystemExit(3)


def is_a_mean(inputs, network, indices, epoch):
    return plain(inputs, network, indices).mean()


def is_no_tensor(inputs, network, indices, epoch):
    return 0.5


def is_no_number(inputs, network, indices, epoch):
    return plain(inputs, network, indices) / 0


def is_detached(inputs, network, indices, epoch):
    return plain(inputs, network, indices).detach()


def is_flat(inputs, network, indices, epoch):
    return plain(inputs, network, indices) * 0


def has_a_gradient_of_no_number(inputs, network, indices, epoch):
    losses = plain(inputs, network, indices)
    return losses + (losses - losses).sqrt()


def changes_inputs(inputs, network, indices, epoch):
    losses = plain(inputs, network, indices)
    inputs.distance.mul_(2)
    return losses


def changes_others(inputs, network, indices, epoch):
    inputs.other_bases[1].train()
    return plain(inputs, network, indices)


def calls_twice(inputs, network, indices, epoch):
    return plain(inputs, network, indices) + plain(inputs, network, indices)


def draws(inputs, network, indices, epoch):
    return plain(inputs, network, indices) * torch.rand(len(indices))


def mixes(inputs, network, indices, epoch):
    losses = plain(inputs, network, indices)
    return losses * losses.mean()


def knows_one_epoch(inputs, network, indices, epoch):
    if epoch > 1:
        raise ValueError(f"epoch {epoch}")
    return plain(inputs, network, indices)


BOUND = {"bound": True}
FAULTS = {
    uses_the_bound: ({}, "needs", "use of bound, which it does not declare: TypeError"),
    uses_all: (BOUND, "needs", "use of base_outputs, other_bases, which it does not declare"),
    raises: ({}, "loss", "IndexError: no sample 7"),
    exits: ({}, "loss", "SystemExit: 3"),
    is_a_mean: ({}, "loss", "torch.float32 [] for 8 samples"),
    is_no_tensor: ({}, "loss", "float"),
    is_no_number: ({}, "loss", "not finite"),
    is_detached: ({}, "gradients", "cut off"),
    is_flat: ({}, "gradients", "0 for all"),
    has_a_gradient_of_no_number: ({}, "gradients", "not finite"),
    changes_inputs: (BOUND, "inputs", "distance"),
    changes_others: ({"other_bases": True}, "inputs", "other_bases"),
    draws: ({}, "repeat", "a difference of"),
    mixes: ({}, "company", "a difference of"),
    knows_one_epoch: ({}, "training", "ValueError: epoch 2"),
}
NOTES = {
    honest: (BOUND, "needs", "'bound' declared, and the same loss without it"),
    calls_twice: ({}, "calls", "2: several workers"),
}
LOSSES = {loss.__name__: loss for loss in (*FAULTS, *NOTES)}


class Planted(Defense):
    title: ClassVar[str] = "planted"

    method: Literal["planted"] = "planted"
    name: str
    declares: dict[str, bool] = {}

    def needs(self):
        return Needs(**self.declares)

    def objective(self, inputs, seed):
        def loss(network, indices, epoch):
            return LOSSES[self.name](inputs, network, indices, epoch)

        return Objective(len(inputs.pixels), loss)


class WithoutObjective(Planted):
    def objective(self, inputs, seed):
        raise KeyError("seed")


class DrawnWithoutSeed(Planted):
    def objective(self, inputs, seed):
        noise = torch.rand(len(inputs.pixels))
        return Objective(len(noise), lambda network, i, epoch: plain(inputs, network, i) * (1 + noise[i]))


def found(defense):
    """The results that are not ok, and the names of all."""
    made = list(results("it", DefenseCase(defense, IMAGES, CLASSES), DEFENSE_CHECKS))
    made = [result for result in made if result.status != "left out"]
    return [result for result in made if result.status != "ok"], [result.check for result in made]


@pytest.mark.parametrize(
    "defense",
    [
        Planted(name="honest"),
        Planted(name="uses_all", declares={"bound": True, "base_outputs": True, "other_bases": True}),
        ImperceptibleBound(k=1.0, n=3),
        PgdTraining(epsilon=0.1, steps=3),
        Trades(epsilon=0.1, steps=3),
        Ensemble(epsilon=0.1),
    ],
)
def test_an_honest_defense_passes_all(defense):
    wrong, checked = found(defense)
    assert (wrong, checked) == ([], [check.name for check in DEFENSE_CHECKS])


@pytest.mark.parametrize("fault", [*FAULTS, *NOTES])
def test_a_fault_is_found_by_its_check_alone(fault):
    declares, check, words = {**FAULTS, **NOTES}[fault]
    (result,), _ = found(Planted(name=fault.__name__, declares=declares))
    assert (result.check, result.status) == (check, "note" if fault in NOTES else "failed")
    assert words in result.came


def test_an_objective_that_can_not_be_made():
    (result,), checked = found(WithoutObjective(name="honest"))
    assert (result.check, result.came) == ("objective", "KeyError: 'seed'")
    assert checked == ["needs", "objective"]


def test_draws_of_an_objective_that_do_not_follow_its_seed():
    (result,), _ = found(DrawnWithoutSeed(name="honest"))
    assert (result.check, result.status) == ("resumed", "failed")
