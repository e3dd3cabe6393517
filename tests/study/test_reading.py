"""Studies: presets build, mistakes are told all at once, each with its path and a suggestion."""

from typing import Any

import pytest

from harness.defenses import DEFENSES
from harness.errors import HarnessError
from harness.extensions import FOREIGN
from harness.study.files import presets
from harness.study.reading import build, load

FULL = ("mnist", "cifar10", "tinyimagenet")


@pytest.mark.parametrize("name", ["quick", *FULL, *(f"{name}-h100" for name in FULL)])
def test_presets_build_and_survive_a_round_trip(name):
    study = load(name)
    assert study.name == name
    assert build(study.model_dump(mode="json")) == study


def test_presets_have_the_papers_settings():
    for name in ("mnist", "cifar10", "tinyimagenet"):
        study = load(name)
        defense = study.defenses["imperceptible_bound"]
        assert (defense.k, defense.n) == ((1, 2, 2.5, 3), (10, 15, 20))
        assert (defense.learning_rate, defense.epochs, study.base.epochs) == (0.001, 10, 20)
        assert (study.network.architecture, study.network.pretrained) == ("vgg16", name != "tinyimagenet")
        assert set(study.attacks) == {"fgsm", "deepfool", "jsma", "cw_l2"}
    assert load("cifar10").attacks["fgsm"].epsilon == (2 / 255, 4 / 255, 8 / 255, 16 / 255)
    assert load("tinyimagenet").dataset.classes == 40


def different(one: Any, other: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> the other's value, where two studies as plain data differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = {}
        for name in one | other:
            found |= different(one.get(name), other.get(name), f"{path}.{name}".removeprefix("."))
        return found
    return {} if one == other else {path: other}


@pytest.mark.parametrize("name", FULL)
def test_presets_for_an_h100_are_the_papers_in_other_batches_and_precisions(name):
    plain, h100 = (load(each).model_dump(mode="json") for each in (name, f"{name}-h100"))
    attack, training, rate = (512, 256, 0.00014) if name == "tinyimagenet" else (1024, 512, 0.0002)
    baseline = {"defenses.adversarial_images.batch_size": training} if name == "cifar10" else {}
    assert different(plain, h100) == {
        "name": f"{name}-h100",
        "batch_size": attack,
        "base.batch_size": training,
        "base.learning_rate": rate,
        "defenses.imperceptible_bound.batch_size": training,
        **baseline,
        "attacks.deepfool.gradients": "bfloat16",
        "attacks.cw_l2.gradients": "bfloat16",
        "white_box.gradients": "bfloat16",
    }
    assert plain["batch_size"] == plain["base"]["batch_size"] == 128


def test_a_file_may_extend_a_preset(tmp_path):
    """Groups are merged, a list is replaced, and --set comes last; as if all had been written in one file."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: quick\nname: mine\nbase: {epochs: 3}\nattacks: {fgsm: {epsilon: [0.1, 0.2]}, ddn: {}}\n"
    )
    study, quick = load(str(path), ("base.batch_size=32",)), load("quick")
    assert (study.base.epochs, study.base.batch_size) == (3, 32)
    assert study.base.learning_rate == quick.base.learning_rate
    assert study.attacks["fgsm"].epsilon == (0.1, 0.2)
    assert list(study.attacks) == [*quick.attacks, "ddn"]
    assert study.defenses == quick.defenses


@pytest.mark.parametrize("name", ["quik", "other.yaml", "[quick]"])
def test_what_is_extended_is_a_preset(tmp_path, name):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {name}\nname: mine\n")
    with pytest.raises(HarnessError, match="extends: expected a preset, got"):
        load(str(path))


def test_overrides_reach_groups_lists_and_new_keys():
    changes = (
        "defenses.imperceptible_bound.k=[3]",
        "defenses.adversarial_images.sources.0.attack=cw_l2",
        "attacks.strong={method: deepfool, overshoot: 0.02}",
    )
    study = load(
        "quick",
        (*changes, "attacks.fgsm.epsilon=[8/255]", "defenses.adversarial_images.sources.1.epsilon=8/255"),
    )
    assert study.defenses["imperceptible_bound"].k == (3,)
    assert study.defenses["adversarial_images"].sources[0].attack == "cw_l2"
    assert study.attacks["strong"].overshoot == 0.02
    assert study.attacks["fgsm"].epsilon == (8 / 255,)


def test_all_mistakes_at_once():
    changes = (
        "dataset.sorce=3", "dataset.source=cifar11", "defenses.imperceptible_bound.k=[0]", "defenses.vib={}",
        "defenses.adversarial_images.epochs=[4, 5]", "attacks.fgsm.epsilon=[2]", "attacks.deepfol={}",
        "attacks.jsma.gama=1", "attacks.jsma.theta=0", "base.epochs=x", "white_box.epsilonn=1",
    )  # fmt: skip
    with pytest.raises(HarnessError) as caught:
        load("quick", changes)
    expected = """the study has 11 mistakes:
  dataset.source: 'cifar11' is not possible; did you mean 'cifar10'?
  dataset.sorce: unknown setting; did you mean 'source'?
  base.epochs: should be a valid integer, got "x"
  attacks.fgsm.epsilon.0: should be less than or equal to 1, got 2
  attacks.jsma.theta: should differ from 0 by at least 0.001
  attacks.jsma.gama: unknown setting; did you mean 'gamma'?
  attacks.deepfol: unknown attack method 'deepfol'; did you mean 'deepfool'?
  defenses.imperceptible_bound.k.0: should be greater than 0, got 0
  defenses.adversarial_images.epochs: should be a valid integer, got [4, 5]{grid}
  defenses.vib: unknown defense method 'vib' (known: {methods})
  white_box.epsilonn: unknown setting; did you mean 'epsilon'?"""
    methods = ", ".join(sorted(DEFENSES.keys() - {FOREIGN}))
    grid = " (a list, so a grid, can be given for sources alone)"
    assert str(caught.value) == expected.format(methods=methods, grid=grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "defenses.adversarial_images.sources=[{attack: fgms}]",
            r"defenses.adversarial_images: unknown attack 'fgms'; did you mean 'fgsm'\?",
        ),
        (
            "defenses.adversarial_images.sources=[{attack: fgsm}]",
            r"epsilon of 'fgsm' must be one of \[0.1, 0.2, 0.3\], got None",
        ),
        (
            "defenses.adversarial_images.sources=[{attack: jsma, epsilon: 0.1}]",
            r"'jsma' has no epsilon, got 0.1",
        ),
        ("attacks.none={method: jsma}", "attacks.none: an attack can't have the name"),
        ("network.pretrained=true", "network.pretrained: unknown setting"),
        ("network.architecture=resnet", r"network: unknown architecture 'resnet'"),
        ("dataset.folder=x", "'folder' belongs to source 'parquet'"),
        ("dataset.seed=-1", "dataset.seed: should be greater than or equal to 0, got -1"),
        ("dataset.paper=cifar", r"dataset.paper: 'cifar' is not possible; did you mean 'cifar10'\?"),
        ("attacks={}", "should have at least 1 item"),
        ("attacks.fgsm.epsilon=[8/0]", "divisor other than 0"),
        ("base=3", "base: should be an object, got 3"),
        (
            "white_box.gradients=bfloat8",
            r"white_box.gradients: 'bfloat8' is not possible; did you mean 'bfloat16'\?",
        ),
        (
            "attacks.pgd={epsilon: [0.1], engine: foolbx}",
            r"attacks.pgd.engine: 'foolbx' is not possible; did you mean 'foolbox'\?",
        ),
        (
            "attacks.pgd={epsilon: [0.1], restarts: 2, random_start: false}",
            "attacks.pgd: 'restarts' without 'random_start' would all be",
        ),
        ("seeds=[-1]", "seeds.0: should be greater than or equal to 0, got -1"),
        ("seeds=[0, 1, 0]", "seeds: should name nothing twice"),
        ("seeds=[]", "seeds: .*should have at least 1 item"),
        ("seed=1", r"seed: unknown setting; did you mean 'seeds'\?"),
        (
            "defenses.base={method: trades, epsilon: 0.1}",
            "defenses.base: a defense can't have the name of the",
        ),
        (
            "defenses.ensemble={epsilon: 0.1}",
            r"defenses.ensemble: takes images from base networks of other seeds.*got seeds: \[0\]",
        ),
        (
            "defenses.trades={epsilon: 0.1, steps: [5, 10]}",
            r"defenses.trades.steps: .*a grid, can be given for",
        ),
        (
            "defenses.trade={epsilon: 0.1}",
            r"defenses.trade: unknown defense method 'trade'; did you mean 'trades'\?",
        ),
        ("base.epochs=true", "base.epochs: should be a valid integer, got true"),
        ("name=a/b", "name: .*should match pattern"),
        (
            "defenses.imperceptible_bound.k=[1, 1]",
            "defenses.imperceptible_bound.k: should name nothing twice",
        ),
        ("white_box.epsilon=[0.1, 0.1]", "white_box.epsilon: should name nothing twice"),
        (
            "defenses.adversarial_images.sources=[{attack: jsma}, {attack: jsma}]",
            "sources: should name nothing twice",
        ),
        ("dataset={source: parquet, folder: .}", "folder '.' names nothing: give the data set a 'name'"),
        ("base", r"--set expects a.b=value, got 'base'"),
        ("base.epochs.x=1", "'base.epochs' is a value, not a group"),
        ("defenses.adversarial_images.sources.9.attack=x", "'9' must be a position from 0 to 2"),
    ],
)
def test_one_mistake(change, message):
    with pytest.raises(HarnessError, match=message):
        load("quick", (change,))


def test_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(presets()["quick"].read_text().replace("name: quick", "name: mine"))
    assert load(str(path)).name == "mine"
    path.write_text("- 1")
    with pytest.raises(HarnessError, match="expected a mapping"):
        load(str(path))
    path.write_text("a: [")
    with pytest.raises(HarnessError, match="not a YAML file"):
        load(str(path))
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(HarnessError, match="not a YAML file"):
        load(str(path))
    path.write_text("a: &a {b: *a}")
    with pytest.raises(HarnessError, match=r"plain values|mistakes"):
        load(str(path))
    with pytest.raises(HarnessError, match="did you mean 'quick'"):
        load("quik")
    with pytest.raises(HarnessError, match="no study"):
        load("q" * 5000)
