"""Visual imperceptible bounds: the paper's pipeline as an ordered list.

Chhabra et al., "Attack Agnostic Adversarial Defense via Visual Imperceptible Bound", ICPR 2020.
"""

from typing import NamedTuple


class Step(NamedTuple):
    """One step of a study: its command, the modules that compute it, the table it writes, the paper's place."""

    name: str
    modules: tuple[str, ...]
    table: str
    paper: str
    summary: str


STEPS = (
    Step(
        "bound",
        ("bound",),
        "bound",
        "III-A, Table II, Fig. 4",
        "nearest neighbours, from which sigma follows",
    ),
    Step("base-network", ("networks", "training"), "training", "IV", "the base network f1"),
    Step("attack", ("attacks",), "attack", "III-B, Table III, Fig. 5", "adversarial images made on f1"),
    Step(
        "defense",
        ("defense", "training"),
        "training",
        "III-C, eq. 4-7",
        "the defended networks of the (k, n) grid",
    ),
    Step("baselines", ("baselines", "training"), "training", "V-D, Table VII", "adversarial training"),
    Step(
        "black-box",
        ("evaluation",),
        "evaluation",
        "Tables IV-VII",
        "every network on clean images and on f1's attacks",
    ),
    Step(
        "white-box",
        ("evaluation", "attacks"),
        "evaluation",
        "V-E",
        "PGD against f1 and the strongest defended network",
    ),
)
