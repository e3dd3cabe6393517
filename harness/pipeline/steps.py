"""The steps of a study in the order of the paper: the one list, cheap to import.

What a step does is its ``StepWork`` in its room: its cells, how they are made, what they cost.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step: its command, the room of this wing that does it, the table it writes, the paper's place."""

    name: str
    room: str
    table: str
    paper: str
    summary: str


STEPS = (
    Step(
        "bound", "bound", "bound", "III-A, Table II, Fig. 4", "nearest neighbours, from which sigma follows"
    ),
    Step("base-network", "training", "training", "IV", "the base network, and finished models as they are"),
    Step(
        "attack",
        "attacks",
        "attack",
        "III-B, Table III, Fig. 1 and 5",
        "adversarial images made on the base network",
    ),
    Step("defense", "training", "training", "III-C, eq. 4-7", "the paper's defense, over its grid"),
    Step("baselines", "training", "training", "V-D, Table VII", "the defenses that it is compared with"),
    Step(
        "black-box",
        "evaluation",
        "evaluation",
        "Tables IV-VII",
        "every network on clean images and on attacks made on the base network",
    ),
    Step(
        "white-box",
        "evaluation",
        "evaluation",
        "V-E",
        "attacks made against each network itself",
    ),
    Step(
        "certify",
        "certified",
        "certified",
        "none",
        "l2 radii within which each network, smoothed with noise, can't change its class",
    ),
    Step(
        "check",
        "checks",
        "check",
        "none",
        "whether each network's numbers may be believed: a verdict a check",
    ),
)
ALL_STEPS = tuple(step.name for step in STEPS)
