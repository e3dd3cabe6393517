"""Cells follow from settings: what a change touches is made anew, nothing else."""

import pytest

from harness import spec
from harness.plan import plan, white_box


def keys(tiny, fingerprint="f", **changes):
    study = spec.build({**tiny, **changes})
    made = plan(study, fingerprint, None)
    found = {f"bound {split}": cell.key for split, cell in made.bounds.items()}
    found |= {
        f"attack {a.name} {a.split} {c.columns['epsilon']}": c.key for a in made.attacks for c in a.cells
    }
    found |= {
        f"{n.kind} {sorted((k, str(v)) for k, v in n.settings.items())}": n.cell.key for n in made.networks
    }
    found |= {f"evaluation {i}": e.cell.key for i, e in enumerate(made.black_box)}
    return found


def changed(before, after):
    return {name.split()[0] for name in before if before[name] != after.get(name)}


def test_no_two_cells_share_a_key(tiny):
    made = plan(spec.build(tiny), "f", None)
    cells = [*made.cells(), *(e.cell for e in white_box(made, (made.base, made.defenses[0])))]
    assert len({cell.key for cell in cells}) == len(cells)
    assert len({cell.path for cell in cells}) == len(cells)


def test_every_network_meets_every_set_of_images(tiny):
    made = plan(spec.build(tiny), "f", None)
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
        ({"white_box": {"epsilon": [0.2]}}, set()),
        ({"fingerprint": "g"}, {"bound", "base", "attack", "vib", "adversarial", "evaluation"}),
        (
            {"base": {"epochs": 4, "learning_rate": 0.01, "batch_size": 32}},
            {"base", "attack", "vib", "adversarial", "evaluation"},
        ),
        ({"base": {"epochs": 3, "learning_rate": 0.01, "batch_size": 32, "workers": 2, "threads": 3}}, set()),
        ({"defense": {"k": [1, 2], "n": [2], "epochs": 2}}, {"vib", "evaluation"}),
        ({"protocol": "label"}, {"attack", "adversarial", "evaluation"}),
        (
            {"dataset": {"source": "digits", "train_limit": 120, "test_limit": 41}},
            {"bound", "base", "attack", "vib", "adversarial", "evaluation"},
        ),
    ],
)
def test_a_change_touches_what_depends_on_it(tiny, change, touched):
    assert changed(keys(tiny), keys(tiny, **change)) == touched


def test_the_training_splits_bound_does_not_depend_on_the_test_images(tiny):
    other = {"source": "digits", "train_limit": 120, "test_limit": 41}
    assert keys(tiny)["bound train"] == keys(tiny, dataset=other)["bound train"]


def test_a_whole_split_does_not_depend_on_the_seed(tiny):
    whole = {"source": "digits"}
    assert keys(tiny, dataset=whole)["bound train"] == keys(tiny, dataset=whole, seed=1)["bound train"]
    assert keys(tiny)["bound train"] != keys(tiny, seed=1)["bound train"]


def test_white_box_steps(tiny):
    study = spec.build({**tiny, "white_box": {"epsilon": [8 / 255], "step_divisors": [4, 10]}})
    made = plan(study, "f", None)
    cells = [e.cell for e in white_box(made, (made.base,))]
    assert [c.columns["step_size"] for c in cells] == pytest.approx([2 / 255, 0.8 / 255])
    assert {c.partition["access"] for c in cells} == {"white_box"}
    assert {c.columns["source"] for c in cells} == {"self"}


def test_white_box_passes_on_how_pgd_is_run(tiny):
    how = {"steps": 7, "restarts": 2, "engine": "early_stop", "gradients": "bfloat16", "random_start": True}
    study = spec.build({**tiny, "white_box": {"epsilon": [0.1], "step_divisors": [4], **how}})
    made = plan(study, "f", None)
    (evaluation,) = white_box(made, (made.base,))
    assert evaluation.settings == spec.Pgd(method="pgd", epsilon=(0.1,), step_divisor=4, **how)
