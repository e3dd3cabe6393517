"""AutoAttack in a study: a cell a member, each from what the one before left, wherever a run is cut off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silence, run_study, snapshot, tiny_study

from harness.attacks import perturb
from harness.attacks.autoattack.worst_case import AutoAttack
from harness.evaluation import tester as work
from harness.networks.classifier import as_input, to_tensor
from harness.pipeline.recompute import recompute
from harness.pipeline.run import prepare, run_steps
from harness.results.store import Store
from harness.seeds import derive
from harness.study.reading import build

WORST = {"method": "autoattack", "epsilon": [0.02, 0.06], "schedule": "quick"}
SHORT = {"ce_steps": 1, "targeted_steps": 4, "targets": 3, "fab_steps": 2, "queries": 5}
STAGES = ["worst-apgd_ce", "worst-apgd_t", "worst-fab_t", "worst"]


def _study(**changes: Any) -> dict[str, Any]:
    tiny = tiny_study()
    white_box = {**tiny["white_box"], "own": {"worst": {**WORST, **SHORT}}, **changes}
    return {**tiny, "defenses": {}, "base": {**tiny["base"], "epochs": 12}, "white_box": white_box}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_study(_study(keep_images=True), tmp_path_factory.mktemp("worst"))


def _cells(run: Any, epsilon: float) -> dict[str, Any]:
    made = [cell for attack in run.plan.white_box for cell in attack.cells]
    return {cell.columns["attack"]: cell for cell in made if cell.columns["epsilon"] == epsilon}


@pytest.mark.parametrize("epsilon", WORST["epsilon"])
def test_members_leave_what_the_attack_as_a_whole_leaves(finished: Any, epsilon: float) -> None:
    cells = _cells(finished, epsilon)
    assert [name for name in cells if name.startswith("worst")] == STAGES
    tester = work.Tester(finished.store, finished.dataset)
    (base,) = finished.plan.bases
    test = finished.dataset.test
    settings = AutoAttack(method="autoattack", epsilon=(epsilon,), **SHORT)
    with tester._using(work.StoredNetwork(base.architecture, base.cell)) as network, torch.no_grad():
        clean, labels, ids = (as_input(to_tensor(test.pixels, torch.device("cpu"))), *map(
            torch.from_numpy, (test.labels, test.ids)
        ))  # fmt: skip
        (whole,) = perturb(network, clean, labels, ids, settings, derive(0, "attack", "worst"), 4)
        predicted = network(whole).argmax(1).numpy()
    rows = finished.store.read(cells["worst"])
    made = finished.store.tensors(cells["worst"])["adversarial"]
    np.testing.assert_allclose(made, whole.numpy(), atol=1e-6)
    assert rows["prediction"].to_pylist() == predicted.tolist()


def test_every_member_goes_on_with_the_survivors_alone(finished: Any) -> None:
    cells = _cells(finished, 0.06)
    rows = [finished.store.read(cells[name]) for name in STAGES]
    labels = rows[0]["label"].to_numpy()
    survive = [table["prediction"].to_numpy() == labels for table in rows]
    assert 0 < survive[-1].sum() < survive[0].sum() < len(labels)
    for before, after, is_left in zip(rows, rows[1:], survive, strict=False):
        assert (after["attack_s"].to_numpy()[~is_left] == 0).all()
        assert (after["attack_s"].to_numpy()[is_left] > 0).all()
        for name in ("prediction", "l1", "linf"):
            ours, theirs = after[name].to_numpy(), before[name].to_numpy()
            assert np.array_equal(ours[~is_left], theirs[~is_left])


def test_a_run_cut_off_between_members_goes_on_where_it_was(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = work.Tester.attack

    def cut(self: work.Tester, task: Any) -> Any:
        if task.name == "worst-fab_t" and task.block.start:
            raise KeyboardInterrupt
        return attack(self, task)

    study = build(_study(keep_images=True))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(work.Tester, "attack", cut)
        run_steps(prepare(study, Store(tmp_path), None, Silence()))
    done = {path for path in Store(tmp_path).files() if path.parts[0] == "evaluation"}
    run = prepare(study, Store(tmp_path), None, Silence())
    assert _cells(run, 0.02)["worst-apgd_t"].path in done
    assert _cells(run, 0.02)["worst-fab_t"].path not in done
    run_steps(run)
    assert snapshot(tmp_path) == snapshot(finished.store.local_root)


def test_members_are_made_again_from_the_one_before(finished: Any) -> None:
    findings = list(recompute(finished.store, 100, 0, None, 0))
    assert len(findings) == len(list(finished.store.files()))
    assert not [finding for finding in findings if finding.differences]


def test_a_member_that_fails_holds_up_those_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = work.Tester.attack

    def broken(self: work.Tester, task: Any) -> Any:
        if task.name == "worst-apgd_t":
            raise RuntimeError("no more")
        return attack(self, task)

    monkeypatch.setattr(work.Tester, "attack", broken)
    run = run_study(_study(), tmp_path)
    reasons = {title: failed.waits for title, failed in run.failed.items() if "worst" in title}
    assert sum(reasons.values()) == 4 and len(reasons) == 6
    assert all("no more" in failed.reason for failed in run.failed.values())


def test_the_twin_has_every_stage_of_the_base_network_that_it_is(tmp_path: Path) -> None:
    run = run_study(
        _study() | {"seeds": [0, 1], "controls": {"no_noise": False, "pgd_training": False}}, tmp_path
    )
    assert not run.failed
    made = {
        (cell.columns["name"], cell.columns["seed"], cell.columns["attack"], cell.columns["epsilon"]): cell
        for cell in run.plan.white_box_cells()
    }
    twins = [key for key in made if key[0] == "twin"]
    assert {key[2] for key in twins} == {"pgd", *STAGES} and len(twins) == 2 * (1 + 4 * 2)
    for name, seed, attack, epsilon in twins:
        ours, theirs = (
            run.store.read(made[key])
            for key in ((name, seed, attack, epsilon), ("base", 1 - seed, attack, epsilon))
        )
        for column in ("image_id", "prediction", "linf", "l1"):
            assert ours[column].equals(theirs[column]), (attack, epsilon, column)
