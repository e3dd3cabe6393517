"""Attacks of other libraries: their images, what a study may say of them, and the table in docs/."""

import pickle
import random
import subprocess
import sys
from typing import Any

import adapters_tried
import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import FGSM, SEED
from conftest import tiny_study
from torch import Tensor, nn

from harness.attacks import ATTACKS, perturb
from harness.attacks.adapters import adapter
from harness.attacks.adapters import foolbox as foolbox_adapter
from harness.errors import HarnessError
from harness.settings import Mistakes, validated
from harness.study.reading import build

Setting = tuple[Any, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Setting:
    return attack_cases.digits()


def settings(method: str, attack: str, epsilon: list[Any] | None = None, **more: Any) -> Any:
    """As a study says it: beside ``norm``, what is named are arguments of the class."""
    entry: dict[str, Any] = {"method": method, "attack": attack}
    if epsilon is not None:
        entry["epsilon"] = epsilon
    if "norm_" in more:
        entry["norm"] = more.pop("norm_")
    return validated(ATTACKS[method], {**entry, "arguments": more})


def made(setting: Setting, attack: Any, **changes: Any) -> list[Tensor]:
    network, images, labels, ids = setting
    return perturb(network, images, labels, ids, attack, **{"seed": SEED, **changes})


# --- the library's images -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "epsilon"),
    [
        ("LinfPGD", {"steps": 7, "random_start": False, "rel_stepsize": 0.2}, 0.15),
        ("L2BasicIterativeAttack", {"steps": 5}, 1.5),
        ("LinfDeepFoolAttack", {"steps": 20}, None),
        ("L2CarliniWagnerAttack", {"steps": 10, "binary_search_steps": 2}, None),
    ],
)
def test_foolbox_by_hand(name: str, arguments: Any, epsilon: float | None, digits: Setting) -> None:
    import foolbox

    network, images, labels, _ = digits
    model = foolbox.models.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = getattr(foolbox.attacks, name)(**arguments)
    by_hand, _, _ = attack(model, images, foolbox.criteria.Misclassification(labels), epsilons=epsilon)
    radii = None if epsilon is None else [epsilon]
    (by_adapter,) = made(digits, settings("foolbox", name, radii, **arguments))
    assert torch.equal(by_adapter, by_hand)
    assert (by_adapter != images).any()


def test_a_distance_is_the_norm_that_a_study_tells(digits: Setting) -> None:
    """Blur has no radius and no norm of its own: Foolbox is told what the study says."""
    attack = settings("foolbox", "LinearSearchContrastReductionAttack", norm_="l1", steps=20)
    assert attack.norm == "l1"
    assert attack.epsilons == (None,)
    assert len(made(digits, attack)) == 1


@pytest.mark.parametrize(("method", "name"), [("art", "FastGradientMethod"), ("torchattacks", "FGSM")])
def test_fgsm_of_each_is_the_harnesss(method: str, name: str, digits: Setting) -> None:
    theirs = made(digits, settings(method, name, list(FGSM.epsilon)))
    for one, ours in zip(theirs, made(digits, FGSM), strict=True):
        torch.testing.assert_close(one, ours, rtol=0, atol=1e-7)


def test_deepfool_of_art_finds_what_the_harness_finds(digits: Setting) -> None:
    """ART stops at no overshoot at all but 1e-6 as the harness here: the same distance."""
    network, images, labels, _ = digits
    (theirs,) = made(digits, settings("art", "DeepFool", max_iter=50, nb_grads=10))
    (ours,) = made(digits, attack_cases.DEEPFOOL)
    sizes = [(x - images).flatten(1).norm(dim=1) for x in (theirs, ours)]
    assert (network(theirs).argmax(1) != labels).float().mean() > 0.9
    assert sizes[0].median().item() == pytest.approx(sizes[1].median().item(), rel=0.15)


def test_saliency_maps_of_art_leave_the_class(digits: Setting) -> None:
    """Its labels would be the classes to reach, unlike those of all others."""
    network, _, labels, _ = digits
    (moved,) = made(digits, settings("art", "SaliencyMapMethod", theta=0.5))
    assert (network(moved).argmax(1) != labels).float().mean() > 0.9


DRAWING = [
    ("foolbox", "LinfPGD", {"steps": 2}),
    ("foolbox", "LinfPGD", {"steps": 1, "random_start": True}),
    ("art", "SquareAttack", {"max_iter": 5}),
    ("art", "ProjectedGradientDescent", {"max_iter": 2, "num_random_init": 1, "eps_step": 0.05}),
    ("torchattacks", "Square", {"n_queries": 5}),
    ("torchattacks", "PGD", {"steps": 2}),
]


@pytest.mark.parametrize(("method", "name", "arguments"), DRAWING)
def test_draws_follow_from_seed_batch_and_radius(
    method: str, name: str, arguments: Any, digits: Setting
) -> None:
    both = settings(method, name, [0.1, 0.2], **arguments)
    whole = made(digits, both, batch_size=8)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    (alone,) = made(digits, both.with_epsilons((0.2,)), batch_size=8)
    assert torch.equal(alone, whole[1])
    second = tuple(part[8:16] if isinstance(part, Tensor) else part for part in digits)
    for one, all_of_them in zip(made(second, both, batch_size=8), whole, strict=True):  # type: ignore[arg-type]
        assert torch.equal(one, all_of_them[8:16])
    assert not torch.equal(made(digits, both, batch_size=8, seed=SEED + 1)[1], whole[1])


@pytest.mark.parametrize(("method", "name", "arguments"), DRAWING)
def test_leaves_generators_network_and_images(
    method: str, name: str, arguments: Any, digits: Setting, capfd: pytest.CaptureFixture[str]
) -> None:
    network, images, _, _ = digits
    before = {key: value.clone() for key, value in network.state_dict().items()}, images.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    made(digits, settings(method, name, [0.1], **arguments))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[0][key]) for key, value in network.state_dict().items())
    assert torch.equal(images, before[1])
    assert not any(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert capfd.readouterr() == ("", "")


class Weightless(nn.Module):
    """Without parameters there is no device to ask: torchattacks says so on standard output."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2, 3)), 10 - x.square().sum((1, 2, 3))], 1)


@pytest.mark.parametrize("method", ["foolbox", "art", "torchattacks"])
def test_a_network_without_weights(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    images, ids = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    attack = settings(method, {"foolbox": "FGSM", "art": "FastGradientMethod"}.get(method, "FGSM"), [0.1])
    (moved,) = made((Weightless().eval(), images, torch.zeros_like(ids), ids), attack)
    (ours,) = made((Weightless().eval(), images, torch.zeros_like(ids), ids), FGSM.with_epsilons((0.1,)))
    torch.testing.assert_close(moved, ours, rtol=0, atol=1e-7)
    assert capfd.readouterr() == ("", "")


def test_a_ball_that_an_attack_leaves_is_not_cut_to(digits: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foolbox's noise in linf is larger than its radius, so it is refused; let through, it is an error."""
    name = "LinfAdditiveUniformNoiseAttack"
    with pytest.raises(Mistakes, match="leaves its ball"):
        settings("foolbox", name, [0.1])
    monkeypatch.delitem(foolbox_adapter._REFUSED, name)
    with pytest.raises(RuntimeError, match=f"foolbox.{name} left the linf ball of radius 0.1"):
        made(digits, settings("foolbox", name, [0.1]))


# --- what a study says of a class -----------------------------------------------------------------------

ENTRIES = {
    "square": {
        "method": "art",
        "attack": "SquareAttack",
        "epsilon": [0.1],
        "arguments": {"norm": float("inf"), "max_iter": 500},
    },
    "fb_bim": {
        "method": "foolbox",
        "attack": "LinfBasicIterativeAttack",
        "epsilon": ["8/255"],
        "arguments": {"steps": 20},
    },
    "ta": {
        "method": "torchattacks",
        "attack": "PGDL2",
        "epsilon": [1.5],
        "arguments": {"steps": 10, "alpha": 1},
    },
    "blur": {"method": "foolbox", "attack": "GaussianBlurAttack", "norm": "l2", "gradients_per_image": 0.5},
}


def study(**attacks: Any) -> Any:
    return build({**tiny_study(), "attacks": attacks, "defenses": {}})


def test_a_study_names_them() -> None:
    read = study(**ENTRIES)
    square, bim, ta, blur = read.attacks.values()
    assert [a.algorithm for a in (square, ta)] == ["art.SquareAttack", "torchattacks.PGDL2"]
    assert [a.norm for a in (square, bim, ta, blur)] == ["linf", "linf", "l2", "l2"]
    assert [a.epsilons for a in (square, bim, ta, blur)] == [(0.1,), (8 / 255,), (1.5,), (None,)]
    assert [a.cost(10, 64) for a in (square, bim, ta, blur)] == [500, 20, 10, 0.5]
    # Stored as JSON, with the library's defaults: infinity is a word.
    assert square.identity()["arguments"] == {"norm": "inf", "max_iter": 500, "p_init": 0.8, "nb_restarts": 1}
    assert "epsilon" not in square.identity()
    assert square.package is None
    assert study(**read.model_dump(mode="json")["attacks"]).attacks == read.attacks
    assert pickle.loads(pickle.dumps(read)) == read


def test_costs_are_guessed_from_the_arguments() -> None:
    assert settings("foolbox", "L2CarliniWagnerAttack", steps=30, binary_search_steps=4).cost(10, 64) == 120
    assert settings("foolbox", "L2CarliniWagnerAttack").cost(10, 64) == 10_000  # 9 x 10,000, cut
    assert settings("torchattacks", "APGD", [0.1, 0.2], steps=5, n_restarts=3).cost(10, 64) == 30
    assert settings("torchattacks", "FGSM", [0.1]).cost(10, 64) == 100


@pytest.mark.parametrize(
    ("entry", "at", "expected"),
    [
        ({"attack": "LinfPDG", "epsilon": [0.1]}, "attack", "no attack 'LinfPDG'; did you mean 'LinfPGD'?"),
        ({"attack": "base", "epsilon": [0.1]}, "attack", "foolbox has no attack 'base'"),
        ({"arguments": {"step": 3}}, "arguments.step", "unknown argument of Linf.*did you mean 'steps'?"),
        ({"arguments": {"steps": 2.5}}, "arguments.steps", "should be a whole number, got 2.5"),
        ({"arguments": {"steps": True}}, "arguments.steps", "should be a whole number, got true"),
        ({"arguments": {"random_start": 1}}, "arguments.random_start", "should be true or false, got 1"),
        ({"arguments": {"abs_stepsize": "a"}}, "arguments.abs_stepsize", 'a number or null, got "a"'),
        ({"epsilon": None}, "epsilon", "required, but not given: foolbox.LinfPGD takes a radius"),
        ({"epsilon": [1.5]}, "epsilon", "of linf should be at most 1, got 1.5"),
        ({"epsilon": [0.1, 0.1]}, "epsilon", "should name nothing twice"),
        ({"norm": "l2"}, "norm", "with these arguments is of linf, got l2"),
        ({"attack": "L2DeepFoolAttack"}, "epsilon", r"takes no radius, got \[0.1\]"),
        ({"attack": "InversionAttack", "epsilon": None}, "norm", "required: .* linf, l2, l1 or l0"),
        (
            {"attack": "InversionAttack", "arguments": {"distance": "l2"}},
            "arguments.distance",
            "setting 'norm'",
        ),
        ({"attack": "VirtualAdversarialAttack"}, "arguments.steps", "required, but not given"),
        (
            {"attack": "BoundaryAttack", "arguments": {"init_attack": "x"}},
            "arguments.init_attack",
            "an object",
        ),
        ({"attack": "BoundaryAttack", "arguments": {"tensorboard": "x"}}, "arguments.tensorboard", "files"),
        ({"attack": "L1FMNAttack", "arguments": {"gamma": float("nan")}}, "arguments", "hold no 'nan'"),
        ({"attack": "GenAttack"}, "attack", "foolbox.GenAttack cannot be used: it is targeted only"),
        ({"attack": "SpatialAttack"}, "attack", "no norm says how far"),
        ({"attack": "Attack"}, "attack", "is abstract"),
        ({"attack": "DatasetAttack"}, "attack", "takes its images from others"),
        ({"attack": "L2FastGradientAttack", "epsilon": [-1]}, "epsilon.0", "greater than 0"),
    ],
)
def test_mistakes_of_foolbox_are_told(entry: Any, at: str, expected: str) -> None:
    base = {"method": "foolbox", "attack": "LinfPGD", "epsilon": [0.1], **entry}
    with pytest.raises(HarnessError, match=rf"attacks\.mine\.{at}: .*{expected}"):
        study(mine={key: value for key, value in base.items() if value is not None})


@pytest.mark.parametrize(
    ("method", "entry", "at", "expected"),
    [
        ("art", {"attack": "SquareAttak"}, "attack", "did you mean 'SquareAttack'?"),
        ("art", {"arguments": {"eps": 0.1}}, "arguments.eps", "is the radius: give it as 'epsilon'"),
        ("art", {"arguments": {"batch_size": 1}}, "arguments.batch_size", "the study's 'batch_size'"),
        ("art", {"arguments": {"estimator": 1}}, "arguments.estimator", "is the network"),
        ("art", {"arguments": {"loss": "x"}}, "arguments.loss", "an object"),
        ("art", {"arguments": {"norm": 3}}, "norm", "required"),
        ("art", {"arguments": {"p_init": 2.0}}, "arguments", "art says at epsilon 0.1: .*p_init"),
        ("art", {"attack": "DPatch"}, "attack", "an estimator of ObjectDetectorMixin, which no PyTorch"),
        ("art", {"attack": "ImperceptibleASR"}, "attack", "an estimator of SpeechRecognizerMixin"),
        ("art", {"attack": "AdversarialPatchTensorFlowV2"}, "attack", "needs a TensorFlow model"),
        ("art", {"attack": "AdversarialPatch"}, "attack", "makes a patch"),
        ("art", {"attack": "OverTheAirFlickeringPyTorch"}, "attack", "is for videos"),
        ("art", {"attack": "LowProFool"}, "attack", "is for tables"),
        ("art", {"attack": "FrameSaliencyAttack"}, "attack", "needs 'attacker', which no value of a study"),
        ("torchattacks", {"attack": "FGMS"}, "attack", "did you mean '.*FGSM'?"),
        ("torchattacks", {"attack": "Attack"}, "attack", "has no attack 'Attack'"),
        (
            "torchattacks",
            {"attack": "FAB", "arguments": {"n_classes": 9}},
            "arguments.n_classes",
            "the network",
        ),
        ("torchattacks", {"arguments": {"seed": 1}}, "arguments.seed", "follows from the study's seeds"),
        ("torchattacks", {"arguments": {"norm": "L3"}}, "norm", "required"),
        (
            "torchattacks",
            {"attack": "PIFGSM", "arguments": {"max_epsilon": 1}},
            "arguments.max_eps",
            "radius",
        ),
        ("torchattacks", {"attack": "GN", "epsilon": None}, "norm", "required"),
        ("torchattacks", {"attack": "MultiAttack"}, "attack", "needs 'attacks'"),
        ("torchattacks", {"attack": "LGV"}, "attack", "needs 'trainloader'"),
        ("torchattacks", {"attack": "CW"}, "epsilon", "takes no radius"),
    ],
)
def test_mistakes_of_the_others_are_told(method: str, entry: Any, at: str, expected: str) -> None:
    attack = {"art": "SquareAttack", "torchattacks": "Square"}[method]
    base = {"method": method, "attack": attack, "epsilon": [0.1], **entry}
    with pytest.raises(HarnessError, match=rf"attacks\.mine\.{at}.*: .*{expected}"):
        study(mine={key: value for key, value in base.items() if value is not None})


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"method": "foolbox", "attack": "LinfPGD", "arguments": {"step": 1, "random_start": 0}}
    with pytest.raises(HarnessError, match="4 mistakes"):
        study(mine=wrong, other={"method": "art", "attack": "DPatch"})


def test_numbers_that_are_written_whole_may_be_others() -> None:
    """torchattacks has no annotations, and writes c=1 and kappa=0."""
    assert settings("torchattacks", "CW", c=0.5, kappa=0.1).arguments == {"c": 0.5, "kappa": 0.1}
    with pytest.raises(Mistakes, match="arguments.steps: should be a whole number"):
        settings("torchattacks", "CW", steps=1.5)


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("art", "SquareAttack", "art.SquareAttack needs art, not installed: .*extra 'reference'"),
        ("torchattacks", "PGD", "torchattacks.PGD needs torchattacks, not installed: pip install --no-deps"),
    ],
)
def test_a_library_that_is_not_installed(
    method: str, name: str, expected: str, digits: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = settings(method, name, [0.1])
    monkeypatch.setattr(adapter, "find_spec", lambda package: None)
    with pytest.raises(HarnessError, match=rf"attacks\.mine\.attack: {expected}"):
        study(mine={"method": method, "attack": name, "epsilon": [0.1]})
    with pytest.raises(HarnessError, match=expected):
        made(digits, read)


def test_reading_a_study_draws_nothing() -> None:
    """The attack is made for a network with weights, which are drawn."""
    before = torch.get_rng_state()
    settings("art", "SquareAttack", [0.1])
    assert torch.equal(torch.get_rng_state(), before)


def test_libraries_are_imported_where_they_are_named() -> None:
    code = "import sys, harness.study.reading; print({'foolbox', 'art', 'torchattacks'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


# --- docs/adapters.md -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "attack"), adapters_tried.adapters())
def test_the_table_names_what_an_adapter_takes_and_what_it_refuses(method: str, attack: Any) -> None:
    page = adapters_tried.PAGE.read_text().split(f"\n## `method: {method}`\n")[1].split("\n## ")[0]
    taken, refused = page.split("\nRefused:\n")
    library = attack.library
    assert [row[0] for row in rows(taken)] == [f"`{name}`" for name in adapters_tried.accepted(library)]
    assert dict(rows(refused)) == {  # type: ignore[arg-type]
        f"`{name}`": f"it {reason}" for name, reason in adapters_tried.refused(library).items()
    }
    for name, norm, takes_epsilon, *_ in rows(taken):
        cls = library.classes()[name.strip("`")]
        assert norm == (library.norm(cls, {}) or "to be told")
        assert takes_epsilon == ("yes" if library.radius(cls) else "no")


def rows(page: str) -> list[list[str]]:
    """A Markdown table's, but for its head."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_tried_class_has_its_row(digits: Setting) -> None:
    row = adapters_tried.tried(ATTACKS["foolbox"], "foolbox", "FGSM", digits)
    assert row[:3] == ["`FGSM`", "linf", "yes"]
    assert int(row[3]) >= 16
