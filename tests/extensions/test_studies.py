"""A network, an attack and a defense from outside in a study: settings, record, plan, mistakes."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_study
from outside import ATTACK, DEFENSE, NETWORK, outside_of

import harness
from harness.attacks.foreign import ForeignAttack
from harness.defenses.foreign import ForeignDefense
from harness.errors import HarnessError
from harness.extensions import digest
from harness.networks.foreign import ForeignNetwork
from harness.networks.objective import Needs
from harness.study.plan import plan
from harness.study.reading import build

IMPORT = "from harness import extensions\n"


@pytest.fixture
def outside(tmp_path):
    with outside_of(tmp_path) as there:
        yield there


@pytest.fixture
def package(outside):
    return outside.package(nets=NETWORK, attacks=ATTACK, defenses=DEFENSE)


@pytest.fixture
def study(package):
    """A study as it is written, with all three, and built-in ones beside them."""
    data = tiny_study()
    data["network"] = {"use": f"{package}.nets:linear"}
    data["attacks"]["mine"] = {
        "use": f"{package}.attacks:noise",
        "settings": {"epsilon": ["8/255", 0.1]},
    }
    data["defenses"]["theirs"] = {
        "use": f"{package}.defenses:smooth",
        "settings": {"epsilon": 0.2, "copies": [1, 3]},
        "epochs": 2,
    }
    return data


def outsiders(built):
    return built.network, built.attacks["mine"], built.defenses["theirs"]


def test_settings_are_complete_and_survive_record_and_pickle(study, package):
    built = build(study)
    network, attack, defense = outsiders(built)
    assert (type(network), type(attack), type(defense)) == (ForeignNetwork, ForeignAttack, ForeignDefense)
    assert network.settings == {"width": 8}
    assert attack.settings == {"epsilon": [8 / 255, 0.1], "steps": 2}
    assert defense.settings == {"epsilon": 0.2, "copies": [1, 3], "kind": "flat"}
    assert (network.title, attack.title, defense.title) == ("Linear", "Noise", "smooth")
    assert attack.algorithm == f"{package}.attacks.noise"
    assert {one.package for one in (network, attack, defense)} == {package}
    assert build(built.model_dump(mode="json")) == built
    assert build(json.loads(built.model_dump_json())) == built
    for one in outsiders(built):
        assert type(one).model_validate_json(one.model_dump_json()) == one
        again = pickle.loads(pickle.dumps(one))
        assert again == one and hash(again) == hash(one)
    assert len({hash(one) for one in outsiders(built)}) == 3


def test_a_record_is_read_without_the_package_but_not_built(study, package, outside):
    """Pickled settings travel without code; code is needed where they are used."""
    attack = build(study).attacks["mine"]
    (outside.folder / package / "attacks.py").unlink()
    again = pickle.loads(pickle.dumps(attack))
    assert again.epsilons == (8 / 255, 0.1)
    assert again.algorithm == f"{package}.attacks.noise"


def test_another_process_finds_the_code_by_itself(study, package, outside):
    """As a worker does, which has the folder on its path and nothing imported."""
    attack = build(study).attacks["mine"]
    (outside.folder / "attack.pickle").write_bytes(pickle.dumps(attack))
    words = "import pickle; print(pickle.load(open('attack.pickle', 'rb')).title)"
    path = os.pathsep.join([str(Path(harness.__file__).parents[1]), str(outside.folder)])
    answer = subprocess.run(
        [sys.executable, "-c", words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=outside.folder,
    )
    assert answer.stdout == "Noise\n", answer.stderr


def test_an_attack_says_what_plans_need(study):
    attack = build(study).attacks["mine"]
    assert (attack.norm, attack.epsilons, attack.cost(10, 36)) == ("linf", (8 / 255, 0.1), 4)
    one = attack.with_epsilons((0.1,))
    assert (one.epsilons, one.settings["epsilon"], attack.epsilons) == ((0.1,), [0.1], (8 / 255, 0.1))
    assert one.identity() == attack.identity()
    assert attack.identity() == {"method": "foreign", "use": attack.use, "settings": {"steps": 2}}
    single = ForeignAttack(use=attack.use, settings={"epsilon": "8/255"})
    assert single.epsilons == (8 / 255,)


def test_an_attack_without_epsilon(outside):
    source = (
        f"{IMPORT}@extensions.attack(norm='l2', cost=2.5)\ndef f(network, images, labels, ids, seed): ...\n"
    )
    attack = ForeignAttack(use=f"{outside.module(source)}:f")
    assert (attack.norm, attack.epsilons, attack.cost(10, 36)) == ("l2", (None,), 2.5)
    assert attack.with_epsilons((None,)) == attack


def test_a_defense_is_a_network_for_each_combination(study, package):
    built = build(study)
    defense = built.defenses["theirs"]
    one, other = defense.expanded()
    assert (one.label(), other.label()) == ("epsilon=0.2 copies=1", "epsilon=0.2 copies=3")
    assert (one.samples_per_image, other.samples_per_image, other.gradients_per_sample) == (1, 3, 0)
    assert one.needs() == Needs(base_outputs=True)
    assert one.columns() == {"training_epsilon": 0.2}
    own = {"use": defense.use, "settings": {"epsilon": 0.2, "copies": 3, "kind": "flat"}}
    assert other.identity() == own
    names = ("epsilon=0.2", "copies=3", "kind='flat'")
    assert other.draws("other_class") == (f"{package}.defenses.smooth", *names)
    assert other.epochs == 2
    assert [name for name, _ in built.networks()][-2:] == ["theirs", "theirs"]


def test_a_plan_has_cells_of_them(study, package):
    planned = plan(build(study), "fingerprint", None)
    names = [network.name for network in planned.defended]
    assert names[-2:] == ["theirs epsilon=0.2 copies=1", "theirs epsilon=0.2 copies=3"]
    assert planned.defended[-1].method == f"{package}.defenses.smooth"
    (mine,) = [attack for attack in planned.attacks if attack.name == "mine"]
    assert [cell.columns["attack_method"] for cell in mine.cells] == 2 * [f"{package}.attacks.noise"]
    assert len({cell.key for cell in planned.cells()}) == len(planned.cells())


def test_entry_points_stand_in_studies(study, package, outside):
    lines = (f"[harness.{kind}]\nmine = {package}.{where}" for kind, where in POINTS.items())
    outside.installed(f"{package}-doors", "\n".join(lines))
    before = outsiders(build(study))
    for entry in (study["network"], study["attacks"]["mine"], study["defenses"]["theirs"]):
        entry["use"] = f"{package}-doors/mine"
    after = outsiders(build(study))
    assert [one.algorithm for one in after] == [one.algorithm for one in before]
    assert [one.package for one in after] == 3 * [package]
    assert build(build(study).model_dump(mode="json")) == build(study)


POINTS = {"networks": "nets:linear", "attacks": "attacks:noise", "defenses": "defenses:smooth"}


def test_all_mistakes_of_a_study_at_once(study, package):
    study["network"] = {"use": f"{package}.nets:linaer", "settings": {"width": 3}}
    study["attacks"]["mine"]["settings"] = {"epsilon": [0.1, 2], "stps": 1}
    study["attacks"]["second"] = {"use": f"{package}.nets:linear"}
    study["attacks"]["third"] = {"method": "fgsm", "use": "a.b:c", "settings": {}, "epsilon": [0.1]}
    study["attacks"]["fourth"] = {"use": 3}
    study["defenses"]["theirs"] |= {"epochs": "x", "setings": 1, "settings": {"copies": 0}}
    study["base"]["epochs"] = "y"
    with pytest.raises(HarnessError) as caught:
        build(study)
    expected = f"""the study has 11 mistakes:
  network.use: '{package}.nets' has no 'linaer'; did you mean 'linear'?
  base.epochs: should be a valid integer, got "y"
  attacks.mine.settings.epsilon.1: should be less than or equal to 1, got 2
  attacks.mine.settings.stps: unknown setting; did you mean 'steps'?
  attacks.second.use: '{package}.nets:linear' is marked as a network, expected an attack (@extensions.attack)
  attacks.third.use: stands in place of 'method', which is given as well: leave one of them out
  attacks.fourth.use: should be a valid string, got 3
  defenses.theirs.settings.epsilon: required, but not given
  defenses.theirs.settings.copies: should be greater than or equal to 1, got 0
  defenses.theirs.epochs: should be a valid integer, got "x"
  defenses.theirs.setings: unknown setting; did you mean 'settings'?"""
    told = str(caught.value)
    assert sorted(told.splitlines()) == sorted(expected.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "convnet"}, "network.use: stands in place of 'architecture'"),
        ({"settings": None}, "network.settings: should be an object, got null"),
        ({"width": 3}, "network.width: unknown setting"),
    ],
)
def test_one_mistake(study, change, message):
    study["network"] |= change
    with pytest.raises(HarnessError, match=message) as caught:
        build(study)
    assert "the study has 1 mistake" in str(caught.value)


def test_the_word_alone_is_not_enough(study):
    study["network"] = {"architecture": "foreign"}
    with pytest.raises(HarnessError, match="network.use: required, but not given"):
        build(study)


def test_a_price_that_is_no_number_is_a_mistake(outside, study):
    source = ATTACK.replace('settings["steps"]', 'settings["step"]')
    study["attacks"]["mine"]["use"] = f"{outside.module(source)}:noise"
    with pytest.raises(
        HarnessError, match="attacks.mine.settings: cost of .*noise can't be computed: KeyError: 'step'"
    ):
        build(study)


def test_the_digest_is_of_the_package_that_settings_name(study, package, outside):
    attack = build(study).attacks["mine"]
    before = digest(attack.package)
    (outside.folder / package / "nets.py").write_text("# nothing\n")
    assert digest(attack.package) != before
