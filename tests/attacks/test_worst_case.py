"""AutoAttack: its schedules, and the worst case of members as one by one by hand and as cells make it."""

from typing import Any

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import SEED, like
from torch import Tensor

from harness.attacks import perturb
from harness.attacks.attack import member_seed
from harness.attacks.autoattack.fast_adaptive_boundary import FabT
from harness.attacks.autoattack.square import Square
from harness.attacks.autoattack.worst_case import AutoAttack
from harness.data.datasets import Images
from harness.evaluation.blocks import Attacked, attack_survivors
from harness.settings import Mistakes, validated

# Each member fools some of the images at the first radius, and leaves some.
SHORT = AutoAttack(
    method="autoattack",
    epsilon=(0.05, 0.08),
    ce_steps=1,
    targeted_steps=2,
    targets=1,
    fab_steps=5,
    queries=150,
)


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Any:
    """Network, images whose values are grey levels, labels that the first three are not put in, ids."""
    network, images, labels, ids = attack_cases.digits()
    images = (images * 255).round() / 255
    labels = labels.clone()
    labels[:3] = (labels[:3] + 1) % 10
    return network, images, labels, ids


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_standard_schedule_is_the_authors(norm: str) -> None:
    settings = AutoAttack(method="autoattack", norm=norm, epsilon=(0.1, 0.3), gradients="bfloat16")
    members = dict(settings.members())
    assert list(members) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert [member.method for member in members.values()] == list(members)
    for member in members.values():
        assert member.norm == norm
        assert member.epsilons == (0.1, 0.3)
    shown: dict[str, Any] = {name: member.model_dump() for name, member in members.items()}
    assert [shown[name]["steps"] for name in ("apgd_ce", "apgd_t", "fab_t")] == [100, 100, 100]
    assert shown["apgd_t"]["targets"] == shown["fab_t"]["targets"] == 9
    assert shown["square"]["queries"] == 5000
    assert {shown[name]["gradients"] for name in ("apgd_ce", "apgd_t", "fab_t")} == {"bfloat16"}
    assert settings.cost(10, 64) == sum(member.cost(10, 64) for member in members.values())


def test_the_quick_schedule_has_fewer_steps_and_no_fab_unless_given() -> None:
    quick = AutoAttack(method="autoattack", epsilon=(0.1,), schedule="quick")
    shown: dict[str, Any] = {name: member.model_dump() for name, member in quick.members()}
    assert list(shown) == ["apgd_ce", "apgd_t", "square"]
    assert (shown["apgd_ce"]["steps"], shown["apgd_t"]["steps"], shown["apgd_t"]["targets"]) == (50, 20, 9)
    assert shown["square"]["queries"] == 200
    changed: dict[str, Any] = dict(like(quick, fab_steps=7, targets=4, queries=10).members())
    assert list(changed) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert (changed["fab_t"].steps, changed["fab_t"].targets, changed["apgd_t"].targets) == (7, 4, 4)
    assert (changed["square"].queries, changed["apgd_ce"].steps) == (10, 50)


def test_a_schedule_without_steps_is_a_mistake() -> None:
    nothing: dict[str, Any] = {"ce_steps": 0, "targeted_steps": 0, "fab_steps": 0, "targets": 0, "queries": 0}
    with pytest.raises(Mistakes) as caught:
        validated(AutoAttack, {"method": "autoattack", "epsilon": [0.1], **nothing})
    assert {name for name, _ in caught.value.below} == set(nothing)
    assert all(
        sentence == "should be greater than or equal to 1, got 0" for _, sentence in caught.value.below
    )
    for expected, changes in [
        ("epsilon: required, but not given", {"epsilon": None}),
        ("epsilon: should be at most 1 in linf", {"epsilon": [2]}),
        ("norm: 'l0' is not possible", {"norm": "l0"}),
        ("schedule: 'standart' is not possible.*'standard'", {"schedule": "standart"}),
    ]:
        values = {"method": "autoattack", "epsilon": [0.1], **changes}
        with pytest.raises(Mistakes, match=expected):
            validated(AutoAttack, {name: value for name, value in values.items() if value is not None})


def test_is_the_worst_case_of_its_members_by_hand(digits: Any) -> None:
    """Each made on all images: an image is that of the first member that fools, else of the last."""
    network, images, labels, ids = digits
    worst = perturb(network, images, labels, ids, SHORT, SEED)
    right = network(images).argmax(1) == labels
    fooling: list[list[str]] = []
    for position in range(len(SHORT.epsilon)):
        expected, going, by = images.clone(), right.clone(), []
        for name, member in SHORT.members():
            made = perturb(network, images, labels, ids, member, member_seed(SEED, name))[position]
            expected[going] = made[going]
            fooled = going & (network(made).argmax(1) != labels)
            by += [name] * bool(fooled.any())
            going &= ~fooled
        torch.testing.assert_close(worst[position], expected, rtol=0, atol=1e-5)
        assert torch.equal((network(worst[position]).argmax(1) == labels)[right], going[right])
        assert torch.equal(worst[position][~right], images[~right])
        fooling.append(by)
    assert going.any()
    # The settings are such that the order matters: more than one member has a part.
    assert max(map(len, fooling)) > 1, fooling


def test_cells_of_members_make_what_it_makes(digits: Any) -> None:
    """A study makes each member by itself, from what the one before left: the same images and rows."""
    network, images, labels, ids = digits
    pixels = (images * 255).round().byte().numpy()
    some = Images(pixels, labels.numpy(), ids.numpy())
    before: list[Attacked] | None = None
    for name, member in SHORT.members():
        before = list(attack_survivors(network, some, member, before, member_seed(SEED, name), 128))
    assert before is not None
    worst = perturb(network, images, labels, ids, SHORT, SEED)
    for (rows, made), batch in zip(before, worst, strict=True):
        assert made is not None
        np.testing.assert_allclose(made, batch.numpy(), rtol=0, atol=1e-5)
        assert np.array_equal(rows["adversarial_predicted"], network(batch).argmax(1).numpy())


def test_what_has_fallen_is_not_attacked_again(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, labels, ids = digits
    seen: list[Tensor] = []
    for member in (FabT, Square):
        monkeypatch.setattr(member, "perturb", lambda self, n, x, y, i, *rest: seen.append(i) or [x.clone()])
    easy = like(SHORT, epsilon=(0.5,), ce_steps=30)
    perturb(network, images, labels, ids, easy, SEED)
    assert not seen
    (made,) = perturb(network, images, labels, ids, like(SHORT, epsilon=(0.05,)), SEED)
    left = ids[network(made).argmax(1) == labels]
    assert len(left)
    assert [ids.tolist() for ids in seen] == [left.tolist()] * 2
