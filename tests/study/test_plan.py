"""Cells follow from settings: what a change touches is made anew, nothing else."""

import json

import pytest
from conftest import tiny_study

from harness.attacks import ATTACKS
from harness.attacks.gradient_sign import Pgd
from harness.defenses import DEFENSES
from harness.networks import NETWORKS
from harness.study import record
from harness.study.plan import plan
from harness.study.reading import build


def keys(tiny, fingerprint="f", **changes):
    made = plan(build({**tiny, **changes}), fingerprint, None)
    named = {f"bound {split}": cell.key for split, cell in made.bounds.items()}
    for attack in made.attacks:
        for cell in attack.cells:
            named[f"attack {attack.name} {attack.split} {cell.columns['epsilon']}"] = cell.key
    named |= {cell.table: cell.key for cell in (made.classes, made.sample)}
    named |= {network.name: network.cell.key for network in made.networks}
    named |= {f"evaluation {i}": e.cell.key for i, e in enumerate(made.black_box)}
    return named | {f"white-box {i}": cell.key for i, cell in enumerate(made.white_box_cells())}


def changed(before, after):
    return {name.split()[0] for name in before if before[name] != after.get(name)}


OF_IMAGES = {"bound", "classes", "sample"}
EVERYTHING = {
    *OF_IMAGES,
    "base",
    "attack",
    "imperceptible_bound",
    "adversarial_images",
    "evaluation",
    "white-box",
}


def other_epochs(name):
    """The tiny study's defenses, one of them with another number of epochs."""
    defenses = tiny_study()["defenses"]
    return {"defenses": {**defenses, name: {**defenses[name], "epochs": 2}}}


def test_no_two_cells_share_a_key(tiny):
    made = plan(build(tiny), "f", None)
    cells = made.cells()
    assert len({cell.key for cell in cells}) == len(cells)
    assert len({cell.path for cell in cells}) == len(cells)


def test_every_network_meets_every_set_of_images(tiny):
    made = plan(build(tiny), "f", None)
    assert len(made.networks) == 1 + 2 + 1
    assert len(made.black_box) == 4 * (1 + 3)
    assert [(a.split, a.name, [c.columns["epsilon"] for c in a.cells]) for a in made.attacks] == [
        ("train", "fgsm", [0.1]), ("test", "fgsm", [0.1, 0.3]), ("test", "deepfool", [None]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"name": "other"}, set()),
        ({"compute": {"workers": 3}}, set()),
        ({"effectiveness_k": 1.0}, set()),
        ({"pictures": 7}, {"sample"}),
        ({"neighbours": "any_class"}, {"sample", "imperceptible_bound", "evaluation", "white-box"}),
        ({"white_box": {"epsilon": [0.2]}}, {"white-box"}),
        ({"fingerprint": "g"}, EVERYTHING),
        (
            {"base": {"epochs": 4, "learning_rate": 0.01, "batch_size": 32}},
            EVERYTHING - OF_IMAGES,
        ),
        ({"base": {"epochs": 3, "learning_rate": 0.01, "batch_size": 32, "workers": 2, "threads": 3}}, set()),
        (other_epochs("imperceptible_bound"), {"imperceptible_bound", "evaluation", "white-box"}),
        ({"protocol": "label"}, {"attack", "adversarial_images", "evaluation", "white-box"}),
        (
            {"dataset": {"source": "digits", "train_limit": 120, "test_limit": 41}},
            EVERYTHING - {"classes"},
        ),
    ],
)
def test_a_change_touches_what_depends_on_it(tiny, change, touched):
    assert changed(keys(tiny), keys(tiny, **change)) == touched


def test_the_training_splits_bound_does_not_depend_on_the_test_images(tiny):
    other = {"source": "digits", "train_limit": 120, "test_limit": 41}
    assert keys(tiny)["bound train"] == keys(tiny, dataset=other)["bound train"]


def test_images_are_drawn_by_a_seed_of_their_own(tiny):
    whole = {"source": "digits"}
    assert keys(tiny)["bound train"] == keys(tiny, seeds=[1])["bound train"]
    assert keys(tiny)["bound train"] != keys(tiny, dataset={**tiny["dataset"], "seed": 1})["bound train"]
    assert keys(tiny, dataset=whole)["bound train"] == keys(tiny, dataset={**whole, "seed": 1})["bound train"]


def test_seeds_share_images_and_bound_alone(tiny):
    one, three = (plan(build({**tiny, "seeds": seeds}), "f", None) for seeds in ([1], [0, 1, 2]))
    assert one.bounds == three.bounds
    for part in ("bases", "attacks", "defended", "black_box"):
        assert len(getattr(three, part)) == 3 * len(getattr(one, part))
    assert set(one.cells()) < set(three.cells())
    assert len(set(three.cells())) == len(three.cells())
    for network in three.defended:
        (base,) = (base for base in three.bases if base.seed == network.seed)
        assert network.base == base.cell
        assert base.cell in network.cell.needs
    titles = [cell.title for cell in three.cells() if cell not in three.of_images]
    assert len(set(titles)) == len(titles)
    assert all("(seed " in title for title in titles)


@pytest.mark.parametrize(
    ("kind", "touched"),
    [
        (NETWORKS["convnet"], EVERYTHING - OF_IMAGES),
        (ATTACKS["fgsm"], {"attack", "adversarial_images", "evaluation", "white-box"}),
        (DEFENSES["imperceptible_bound"], {"imperceptible_bound", "evaluation", "white-box"}),
        (DEFENSES["adversarial_images"], {"adversarial_images", "evaluation", "white-box"}),
    ],
)
def test_a_revision_of_code_makes_anew_what_it_makes(tiny, monkeypatch, kind, touched):
    before = keys(tiny)
    monkeypatch.setattr(kind, "revision", kind.revision + 1)
    assert changed(before, keys(tiny)) == touched


def test_two_defenses_of_one_method_are_two_networks(tiny):
    same = {"method": "imperceptible_bound", "k": 1, "n": 2, "epochs": 1}
    made = plan(build({**tiny, "defenses": {"once": same, "anew": {**same, "redraw": True}}}), "f", None)
    assert [n.name for n in made.networks] == ["base", "once k=1 n=2", "anew k=1 n=2"]
    assert len({n.cell.key for n in made.networks}) == 3
    assert [json.loads(n.cell.columns["settings"])["redraw"] for n in made.defended] == [False, True]


def test_a_network_keeps_its_name_when_its_grid_grows(tiny):
    def cells(k):
        return keys(tiny, defenses={"imperceptible_bound": {"k": k, "n": 2, "epochs": 1}})

    name = "imperceptible_bound k=1 n=2"
    assert cells(1)[name] == cells([1])[name] == cells([1, 2])[name]


def test_an_ensemble_is_given_the_base_networks_of_other_seeds(tiny):
    defenses = {"ensemble": {"epsilon": 0.1, "epochs": 1}}
    made = plan(build({**tiny, "seeds": [3, 4, 5], "defenses": defenses}), "f", None)
    bases = {base.seed: base.cell for base in made.bases}
    for network in made.defended:
        others = tuple(cell for seed, cell in bases.items() if seed != network.seed)
        assert network.other_bases == others
        assert set(network.cell.needs) == set(bases.values())


def test_what_is_stored_tells_how_to_lay_a_study_out(tiny):
    made = plan(build({**tiny, "seeds": [0, 1]}), "f", None)
    rows = record.planned(made)
    assert [row["position"] for row in rows] == list(range(2 * 4 * (4 + 1)))
    assert {row["title"] for row in rows} == {
        "base",
        "imperceptible bound k=1 n=2",
        "imperceptible bound k=2 n=2",
        "adversarial images fgsm 0.1",
    }
    assert {row["attack_title"] for row in rows} == {"Clean", "FGSM 0.1", "FGSM 0.3", "DeepFool", "PGD 0.1"}
    assert {(row["access"], row["seed"]) for row in rows} == {
        (access, seed) for access in ("clean", "black_box", "white_box") for seed in (0, 1)
    }
    about = record.about(made)
    assert (about["dataset"], about["paper"], about["seeds"]) == ("digits", None, [0, 1])


def test_white_box_steps(tiny):
    study = build({**tiny, "white_box": {"epsilon": [8 / 255], "step_divisors": [4, 10]}})
    made = plan(study, "f", None)
    cells = [cell for cell in made.white_box_cells() if cell.columns["name"] == "base"]
    assert [c.columns["step_size"] for c in cells] == pytest.approx([2 / 255, 0.8 / 255])
    assert {c.partition["access"] for c in cells} == {"white_box"}
    assert {c.columns["source"] for c in cells} == {"base"}


def in_white_box(made):
    """(network, attack, epsilon) of each cell of the white box."""
    return [tuple(cell.columns[c] for c in ("name", "attack", "epsilon")) for cell in made.white_box_cells()]


def test_the_white_box_takes_any_attack_on_any_network(tiny):
    """All networks unless some are named; what was made on the base network is not made again."""
    spec = {"attacks": ["deepfool", "fgsm"]}
    made = plan(build({**tiny, "white_box": spec}), "f", None)
    names = [network.name for network in made.networks]
    each = {("fgsm", 0.1), ("fgsm", 0.3), ("deepfool", None)}
    assert set(in_white_box(made)) == {(name, *attack) for name in names for attack in each}
    assert {e.images for e in made.measured} == {
        c for a in made.attacks if a.split == "test" for c in a.cells
    }
    assert {attack.network.name for attack in made.white_box} == {*names} - {"base"}
    some = {**spec, "networks": ["adversarial_images", "imperceptible_bound k=2 n=2"]}
    made = plan(build({**tiny, "white_box": some}), "f", None)
    named = {"adversarial_images fgsm 0.1", "imperceptible_bound k=2 n=2"}
    assert {name for name, _, _ in in_white_box(made)} == named


def test_a_finished_model_is_a_network_of_every_seed(tiny):
    """One cell with its weights, whose digest is in the key; tested on the images of each seed."""
    models = {"theirs": {"architecture": "convnet", "width": 5, "weights": "theirs.safetensors"}}
    study = build({**tiny, "seeds": [0, 1], "models": models})
    made, other = (plan(study, "f", {"theirs": digest}) for digest in ("a", "b"))
    (model,) = made.models
    assert model.cell.columns["seed"] is None and model.cell.needs == ()
    assert model.architecture == study.models["theirs"]
    tested = [e for e in made.black_box if e.network.name == "theirs"]
    assert len(tested) == 2 * 4 and {e.cell.columns["seed"] for e in tested} == {0, 1}
    assert ("theirs", "pgd", 0.1) in in_white_box(made)
    assert len({cell.key for cell in made.cells()}) == len(made.cells())
    changed = {cell.columns["name"] for cell in {*made.cells()} - {*other.cells()}}
    assert changed == {"theirs"}


def test_white_box_passes_on_how_pgd_is_run(tiny):
    how = {"steps": 7, "restarts": 2, "engine": "early_stop", "gradients": "bfloat16", "random_start": True}
    study = build({**tiny, "white_box": {"epsilon": [0.1], "step_divisors": [4], **how}})
    made = plan(study, "f", None)
    assert {attack.settings for attack in made.white_box} == {
        Pgd(method="pgd", epsilon=(0.1,), step_divisor=4, **how)
    }
