"""What is stored with a study's results when it is planned: all that tables need to lay them out later.

Whoever reads results needs no settings class for it, of today or of the day when they were made.
"""

from collections.abc import Iterable
from typing import Any

from harness.attacks import ATTACKS
from harness.settings import epsilon_text
from harness.study.plan import Evaluation, Plan
from harness.study.spec import CLEAN, Study


def about(study: Study) -> dict[str, Any]:
    """A study's settings that tables show or compute with."""
    dataset = study.dataset
    return {
        "dataset": dataset.label,
        "title": dataset.title or dataset.label,
        "paper": dataset.paper_dataset,
        "seeds": list(study.seeds),
        "neighbours": study.neighbours,
        "effectiveness_k": study.effectiveness_k,
        "protocol": study.protocol,
        "architecture": study.network.architecture,
    }


def planned(plan: Plan, white_box: Iterable[Evaluation]) -> list[dict[str, Any]]:
    """The accuracies that a study is to measure, in order: the columns of their rows, and what is shown."""
    return [_planned(position, e) for position, e in enumerate((*plan.black_box, *white_box))]


def _planned(position: int, evaluation: Evaluation) -> dict[str, Any]:
    columns = evaluation.cell.columns
    names = ("name", "method", "settings", "k", "n", "training_attack", "training_epsilon", "seed")
    attack = ("attack", "attack_method", "epsilon", "step_size")
    return {
        "position": position,
        "access": evaluation.cell.partition["access"],
        **{name: columns[name] for name in (*names, *attack)},
        "title": evaluation.network.title,
        "attack_title": _attack_title(columns["attack"], columns["attack_method"], columns["epsilon"]),
    }


def _attack_title(name: str, method: str, epsilon: float | None) -> str:
    """'Clean', 'FGSM 8/255', 'DeepFool'; an attack with a name of its own in the study is called by it."""
    if name == CLEAN:
        return "Clean"
    title = ATTACKS[method].title if name == method else name
    return title if epsilon is None else f"{title} {epsilon_text(epsilon)}"
