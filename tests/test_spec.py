"""Studies: presets build, mistakes are told all at once, each with its path and a suggestion."""

import pytest

from harness import spec
from harness.attacks import ATTACKS
from harness.errors import HarnessError


@pytest.mark.parametrize("name", ["quick", "mnist", "cifar10", "tinyimagenet"])
def test_presets_build_and_survive_a_round_trip(name):
    study = spec.load(name)
    assert study.name == name
    assert spec.build(study.model_dump(mode="json")) == study


def test_presets_have_the_papers_settings():
    for name in ("mnist", "cifar10", "tinyimagenet"):
        study = spec.load(name)
        assert (study.defense.k, study.defense.n) == ((1, 2, 2.5, 3), (10, 15, 20))
        assert (study.defense.learning_rate, study.defense.epochs, study.base.epochs) == (0.001, 10, 20)
        assert (study.network.architecture, study.network.pretrained) == ("vgg16", name != "tinyimagenet")
        assert set(study.attacks) == {"fgsm", "deepfool", "jsma", "cw_l2"}
    assert spec.load("cifar10").attacks["fgsm"].epsilon == (2 / 255, 4 / 255, 8 / 255, 16 / 255)
    assert spec.load("tinyimagenet").dataset.classes == 40


def test_every_method_has_an_attack():
    assert set(ATTACKS) == set(spec.METHODS)


def test_overrides_reach_groups_lists_and_new_keys():
    changes = (
        "defense.k=[3]",
        "adversarial_training.sources.0.attack=cw_l2",
        "attacks.strong={method: deepfool, overshoot: 0.02}",
    )
    study = spec.load(
        "quick", (*changes, "attacks.fgsm.epsilon=[8/255]", "adversarial_training.sources.1.epsilon=8/255")
    )
    assert study.defense.k == (3,)
    assert study.adversarial_training.sources[0].attack == "cw_l2"
    assert study.attacks["strong"].overshoot == 0.02
    assert study.attacks["fgsm"].epsilon == (8 / 255,)


def test_all_mistakes_at_once():
    changes = (
        "dataset.sorce=3", "dataset.source=cifar11", "defense.k=[0]", "attacks.fgsm.epsilon=[2]", "attacks.deepfol={}",
        "attacks.jsma.gama=1", "attacks.jsma.theta=0", "base.epochs=x", "white_box.epsilonn=1",
    )  # fmt: skip
    with pytest.raises(HarnessError) as caught:
        spec.load("quick", changes)
    expected = """the study has 9 mistakes:
  dataset.source: 'cifar11' is not possible; did you mean 'cifar10'?
  dataset.sorce: unknown setting; did you mean 'source'?
  base.epochs: should be a valid integer, got "x"
  attacks.fgsm.epsilon.0: should be less than or equal to 1, got 2
  attacks.jsma.theta: should differ from 0 by at least 0.001
  attacks.jsma.gama: unknown setting; did you mean 'gamma'?
  attacks.deepfol: unknown attack method 'deepfol'; did you mean 'deepfool'?
  defense.k.0: should be greater than 0, got 0
  white_box.epsilonn: unknown setting; did you mean 'epsilon'?"""
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "adversarial_training.sources=[{attack: fgms}]",
            r"sources.0: unknown attack 'fgms'; did you mean 'fgsm'\?",
        ),
        (
            "adversarial_training.sources=[{attack: fgsm}]",
            r"epsilon of 'fgsm' must be one of \[0.1, 0.2, 0.3\], got None",
        ),
        ("adversarial_training.sources=[{attack: jsma, epsilon: 0.1}]", r"'jsma' has no epsilon, got 0.1"),
        ("attacks.none={method: jsma}", "attacks.none: an attack can't have the name"),
        ("network.pretrained=true", "'pretrained' needs architecture 'vgg16'"),
        ("dataset.folder=x", "'folder' belongs to source 'parquet'"),
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
        ("seed=-1", "seed: should be greater than or equal to 0, got -1"),
        ("base.epochs=true", "base.epochs: should be a valid integer, got true"),
        ("name=a/b", "name: .*should match pattern"),
        ("defense.k=[1, 1]", "defense.k: should name nothing twice"),
        ("white_box.epsilon=[0.1, 0.1]", "white_box.epsilon: should name nothing twice"),
        (
            "adversarial_training.sources=[{attack: jsma}, {attack: jsma}]",
            "sources: should name nothing twice",
        ),
        ("dataset={source: parquet, folder: .}", "folder '.' names nothing: give the data set a 'name'"),
        ("base", r"--set expects a.b=value, got 'base'"),
        ("base.epochs.x=1", "'base.epochs' is a value, not a group"),
        ("adversarial_training.sources.9.attack=x", "'9' must be a position from 0 to 2"),
    ],
)
def test_one_mistake(change, message):
    with pytest.raises(HarnessError, match=message):
        spec.load("quick", (change,))


def test_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(spec.presets()["quick"].read_text().replace("name: quick", "name: mine"))
    assert spec.load(str(path)).name == "mine"
    path.write_text("- 1")
    with pytest.raises(HarnessError, match="expected a mapping"):
        spec.load(str(path))
    path.write_text("a: [")
    with pytest.raises(HarnessError, match="not a YAML file"):
        spec.load(str(path))
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(HarnessError, match="not a YAML file"):
        spec.load(str(path))
    path.write_text("a: &a {b: *a}")
    with pytest.raises(HarnessError, match=r"plain values|mistakes"):
        spec.load(str(path))
    with pytest.raises(HarnessError, match="did you mean 'quick'"):
        spec.load("quik")
    with pytest.raises(HarnessError, match="no study"):
        spec.load("q" * 5000)


def test_names_of_data_sets():
    assert (
        spec.DatasetSpec(source="parquet", folder="a/CIFAR10-jpeg", paper="cifar10").label == "cifar10-jpeg"
    )
    assert spec.DatasetSpec(source="parquet", folder="a/x", paper="cifar10").paper_dataset == "cifar10"
    assert spec.DatasetSpec(source="mnist").paper_dataset == "mnist"
    assert spec.DatasetSpec(source="digits").paper_dataset is None
