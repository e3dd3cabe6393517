"""Which controls a study has, with which settings; what it consists of with and without them."""

import pytest

from harness.errors import HarnessError
from harness.study import record
from harness.study.plan import plan
from harness.study.reading import build, load


def controls(tiny, **changes):
    """Name -> settings of the controls that a study trains."""
    return dict(build({**tiny, "controls": {}, **changes}).controls_trained())


def planned(tiny, **changes):
    return plan(build({**tiny, **changes}), "f", None)


def test_they_are_trained_as_the_first_of_the_bounds_defenses(tiny):
    grid = {"method": "imperceptible_bound", "k": [2, 1], "n": [2, 5], "epochs": 2, "learning_rate": 0.01}
    shared = {"batch_size": 16, "precision": "bfloat16", "redraw": True}
    later = {"method": "imperceptible_bound", "k": 3, "n": 7, "epochs": 9}
    made = controls(tiny, defenses={"trades": {"epsilon": 0.1}, "first": {**grid, **shared}, "later": later})
    assert list(made) == ["no_noise", "noise_labels", "control_pgd"]
    for name in ("no_noise", "noise_labels"):
        control = made[name]
        assert (control.n, control.epochs, control.learning_rate) == (5, 2, 0.01)
        assert (control.batch_size, control.precision) == (16, "bfloat16")
    assert (made["noise_labels"].k, made["noise_labels"].redraw) == (1.0, True)
    assert list(controls(tiny, defenses={})) == ["control_pgd"]


def test_pgd_training_is_the_base_networks_at_the_smallest_radius(tiny):
    pgd = controls(tiny, white_box={"epsilon": [0.2, 0.1]})["control_pgd"]
    assert (pgd.epsilon, pgd.epochs, pgd.learning_rate, pgd.batch_size) == (0.1, 10, 0.01, 32)
    attacks = {"fgsm": {"epsilon": [0.3, 0.05]}, "ddn": {}}
    named = {"attacks": attacks, "white_box": {"attacks": ["fgsm", "ddn"]}, "defenses": {}}
    assert controls(tiny, **named)["control_pgd"].epsilon == 0.05
    own = {"own": {"mine": {"method": "fgsm", "epsilon": [0.02]}}}
    assert controls(tiny, white_box=own)["control_pgd"].epsilon == 0.02
    none = {"attacks": {"ddn": {}}, "white_box": {"attacks": ["ddn"]}, "defenses": {}}
    assert controls(tiny, **none)["control_pgd"].epsilon == 8 / 255
    given = {"pgd_training": {"epsilon": 8 / 255, "epochs": 5, "learning_rate": 0.02, "steps": 3}}
    pgd = controls(tiny, controls=given)["control_pgd"]
    assert (pgd.epsilon, pgd.epochs, pgd.learning_rate, pgd.steps) == (8 / 255, 5, 0.02, 3)


def test_without_controls_a_study_is_what_it_was(tiny):
    off = planned(tiny, seeds=[0, 1])
    on = planned(tiny, seeds=[0, 1], controls={})
    assert {network.role for network in off.networks} == {"base", "defense", "baseline"}
    assert set(off.cells()) < set(on.cells())
    added = {network.name for network in on.tested} - {network.name for network in off.tested}
    assert added == {"twin", "no_noise", "noise_labels", "control_pgd"}
    assert {network.role for network in on.tested if network.name in added} == {"control"}
    shared = [cell for cell in on.cells() if cell in set(off.cells())]
    assert len(shared) == len(off.cells())


def test_a_control_meets_what_a_defense_meets(tiny):
    made = planned(tiny, seeds=[0, 1], controls={})
    tested = {(e.network.name, e.network.seed, e.cell.columns["attack"]) for e in made.black_box}
    attacks = {"none", "fgsm", "deepfool"}
    for name in ("twin", "no_noise", "noise_labels", "control_pgd", "imperceptible_bound k=1 n=2"):
        assert {attack for other, _, attack in tested if other == name} == attacks
    attacked = {attack.network.name for attack in made.white_box}
    assert {"no_noise", "noise_labels", "control_pgd"} < attacked and "twin" not in attacked
    assert {network.name for network in made.trained_by("baselines")} > {"no_noise", "control_pgd"}


def test_a_twin_is_the_base_network_of_the_next_seed(tiny):
    made = planned(tiny, seeds=[3, 5, 8], controls={}, white_box={"epsilon": [0.1], "attacks": ["fgsm"]})
    bases = {base.seed: base.cell for base in made.bases}
    twins = {network.seed: network.cell for network in made.tested if network.name == "twin"}
    assert twins == {3: bases[5], 5: bases[8], 8: bases[3]}
    for evaluation in made.black_box:
        if evaluation.network.name == "twin" and evaluation.images:
            columns = evaluation.cell.columns
            assert (columns["name"], columns["method"]) == ("twin", "base")
            assert columns["seed"] == evaluation.images.columns["seed"] == evaluation.network.seed
            assert columns["network"] == twins[columns["seed"]].key
    for copy in made.copied:
        assert copy.images.columns["name"] == "base"
        assert copy.images.columns["network"] == copy.cell.columns["network"]
    named = planned(tiny, seeds=[0, 1], controls={}, white_box={"epsilon": [0.1], "networks": ["no_noise"]})
    assert not named.copied and {attack.network.name for attack in named.white_box} == {"no_noise"}


def test_a_record_says_which_are_left_out_and_why(tiny):
    def left_out(**changes):
        return record.about(planned(tiny, **changes))["controls_left_out"]

    assert left_out(controls={}) == ["twin: the study has one seed"]
    off = ["twin: switched off", "no_noise: switched off", "noise_labels: switched off"]
    assert left_out(seeds=[0, 1]) == [*off, "control_pgd: switched off"]
    assert left_out(seeds=[0, 1], controls={}) == []
    without = [f"{name}: the study has no imperceptible_bound" for name in ("no_noise", "noise_labels")]
    assert left_out(seeds=[0, 1], controls={}, defenses={}) == without


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("controls.twin=true",), r"controls.twin: needs a base network of another.*got seeds: \[0\]"),
        (("controls.twinn=true",), "controls.twinn: unknown setting; did you mean 'twin'"),
        (("controls=3",), "controls: should be an object, got 3"),
        (("controls.pgd_training={epsilon: 2}",), "controls.pgd_training.epsilon: .*less than or equal to 1"),
        (("controls.pgd_training={epoch: 2}",), "pgd_training.epoch: unknown setting; did you mean 'epochs'"),
        (("defenses.no_noise={n: 3}",), r"defenses.no_noise: .* a control \(controls.no_noise: false leaves"),
        (("models.control_pgd={weights: x}",), "models.control_pgd: .*controls.pgd_training: false leaves"),
        (("seeds=[0, 1]", "defenses.twin={method: no_noise, n: 3}"), "defenses.twin: .*controls.twin: false"),
        (("white_box.networks=[twin]",), "white_box.networks: unknown network 'twin'"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(HarnessError, match=message):
        load("quick", changes)


def test_names_are_free_where_the_control_is_off():
    load("quick", ("defenses.twin={method: no_noise, n: 3}",))  # one seed has no twin
    load("quick", ("controls.no_noise=false", "defenses.no_noise={n: 3}"))
    load("quick", ("controls=false", "models.control_pgd={weights: x}"))
    load("quick", ("white_box.networks=[no_noise, control_pgd]",))


# --- the validation split ---


def held_out(tiny, **changes):
    return planned(tiny, dataset={**tiny["dataset"], "validation_limit": 20}, **changes)


def test_validation_images_are_for_choices_among_the_bounds_networks(tiny):
    made = held_out(tiny, seeds=[0, 1])
    names = ("base", "imperceptible_bound k=1 n=2", "imperceptible_bound k=2 n=2")
    found = [(e.network.seed, e.network.name, e.cell.columns["attack"]) for e in made.validation]
    attacks = ("none", "fgsm", "fgsm", "deepfool")
    assert found == [(seed, name, attack) for seed in (0, 1) for name in names for attack in attacks]
    assert {e.cell.partition["split"] for e in made.validation} == {"validation"}
    images = [e.images for e in made.validation if e.images]
    assert {cell.partition["split"] for cell in images} == {"validation"}
    assert set(images) < {cell for attack in made.attacks for cell in attack.cells}
    assert {row["split"] for row in record.planned(made)} == {"test", "validation"}
    single = {"imperceptible_bound": {"k": 1, "n": 2, "epochs": 1}}
    assert not held_out(tiny, defenses=single).validation
    assert "validation" not in {attack.split for attack in held_out(tiny, defenses=single).attacks}


def test_validation_images_are_another_training_set(tiny):
    """All trainings and the bound are anew, the classes' names are not; the data without a split are called
    what they were.
    """
    before, after = planned(tiny), held_out(tiny)
    assert set(before.cells()) & set(after.cells()) == {before.classes}
    assert "validation" not in before.ground.data and "validation" not in before.ground.data["train"]
    assert before.ground.data["test"] == after.ground.data["test"]
