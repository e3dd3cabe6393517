"""What is stored with a study's results when it is planned: all that tables need to lay them out later.

Whoever reads results needs no settings class for it, of today or of the day when they were made.
"""

from collections.abc import Mapping
from typing import Any

from harness.attacks.gradient_sign import Pgd
from harness.results.cells import Cell
from harness.settings import epsilon_text
from harness.study.attacks import ATTACK_COLUMNS, members_of
from harness.study.plan import Plan
from harness.study.spec import CLEAN, Study
from harness.study.trainings import Network

_KEPT_CODE = 10  # earlier digests: cells of older code are made anew


def about(
    plan: Plan, before: Mapping[str, Any] | None = None, rekeyed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A study's settings that tables show or compute with, and the digests of the code from outside.

    ``before``: what an earlier record said, whose code its cells may be made with; ``rekeyed``: what is said
    of cells that kept their values through an edit.
    """
    study, dataset, earlier = plan.study, plan.study.dataset, before or {}
    code = dict(plan.code)
    codes = [earlier.get("code", {}), *earlier.get("earlier_code", [])]
    return {
        "dataset": dataset.label,
        "title": dataset.title or dataset.label,
        "paper": dataset.paper_dataset,
        "seeds": list(study.seeds),
        "neighbours": study.neighbours,
        "effectiveness_k": study.effectiveness_k,
        "protocol": study.protocol,
        "architecture": study.network.algorithm,
        "networks": _networks(plan),
        "radii": list(study.certify.radii) if study.certify else [],
        "controls_left_out": [f"{name}: {why}" for name, why in study.controls_left_out().items()],
        "code": code,
        "earlier_code": [each for each in codes if each and each != code][:_KEPT_CODE],
        "rekeyed": [*earlier.get("rekeyed", []), *([dict(rekeyed)] if rekeyed else [])],
    }


def planned(plan: Plan) -> list[dict[str, Any]]:
    """The accuracies that a study is to measure, in order: the columns of their rows, and what is shown."""
    evaluations = [(each.cell, each.network, each.is_stage) for each in (*plan.black_box, *plan.measured)]
    for attack in plan.white_box:
        evaluations += [(cell, attack.network, attack.is_stage) for cell in attack.cells]
    evaluations += [(each.cell, each.network, each.is_stage) for each in (*plan.copied, *plan.validation)]
    return [_planned(position, *each, plan.study) for position, each in enumerate(evaluations)]


def _networks(plan: Plan) -> list[dict[str, Any]]:
    """The networks that a study tests, in order, once for each seed; finished models have none themselves."""
    return [
        {
            "position": position,
            "role": network.role,
            "name": network.name,
            "method": network.method,
            "title": network.title,
            "seed": network.seed,
            "key": network.cell.key,
        }
        for position, network in enumerate(plan.tested)
    ]


def _planned(position: int, cell: Cell, network: Network, is_stage: bool, study: Study) -> dict[str, Any]:
    columns = cell.columns
    names = ("name", "method", "settings", "k", "n", "training_attack", "training_epsilon", "seed")
    return {
        "position": position,
        "split": cell.partition["split"],
        "access": cell.partition["access"],
        "stage": is_stage,
        "role": network.role,
        **{name: columns[name] for name in (*names, "attack", *ATTACK_COLUMNS)},
        "title": network.title,
        "attack_title": _attack_title(columns["attack"], columns["norm"], columns["epsilon"], study),
    }


def _attack_title(name: str, norm: str | None, epsilon: float | None, study: Study) -> str:
    """'Clean', 'FGSM 8/255', 'DeepFool', 'mine 0.5 (l2)'.

    An attack with a name of its own in the study is called by it.
    """
    if name == CLEAN:
        return "Clean"
    title = _titles(study).get(name, Pgd.title)  # the white box's sweep
    if epsilon is None:
        return title
    return f"{title} {epsilon_text(epsilon)}" + ("" if norm == "linf" else f" ({norm})")


def _titles(study: Study) -> dict[str, str]:
    """What tables call the attacks of a study, and the stages of its worst cases."""
    titles = {}
    for name, attack in {**study.attacks, **study.white_box.own}.items():
        title = attack.title if name == attack.method else name
        for member in members_of(name, attack):
            titles[member.attack] = f"{title}: {member.member}" if member.is_stage else title
    return titles
