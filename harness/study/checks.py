"""The checks of a study: two cells a network, of what it says and of the images that were made against it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from harness.results.cells import Cell
from harness.settings import Epsilon
from harness.study.attacks import PlannedAttack
from harness.study.spec import Study
from harness.study.trainings import Ground, Network

REVISION = 1  # goes up when a check says something else of the same network
_EPSILON: Epsilon = 8 / 255


@dataclass(frozen=True)
class PlannedCheck:
    """One cell of table ``check``.

    ``kind`` network: all checks of ``harness.checks.robustness``, at the l-inf radius ``epsilon``, with
    images made on the base network ``base`` (None for itself). ``kind`` images: of what is in ``images``,
    the cells of attacks on the network.
    """

    kind: Literal["network", "images"]
    cell: Cell
    network: Network
    epsilon: float
    base: Network | None = None
    images: tuple[Cell, ...] = ()


def checks_of(
    ground: Ground,
    network: Network,
    base: Network,
    white_box: Iterable[PlannedAttack],
    attacks: Iterable[PlannedAttack],
) -> Iterator[PlannedCheck]:
    """A network's checks. ``white_box``: the attacks on it; ``attacks``: those on ``base``."""
    spec = ground.study.checks
    if not spec.enabled:
        return
    epsilon = checked_epsilon(ground.study)
    other = None if network.cell == base.cell else base
    identity = {
        "checks": "network",
        "epsilon": epsilon,
        "images": spec.images,
        **ground.code_of(network.architecture),
    }
    needs = (network.cell, *([base.cell] if other else []))
    yield PlannedCheck(
        "network", _cell(ground, network, identity, needs, "checks of"), network, epsilon, other
    )
    made = [cell for attack in white_box for cell in attack.cells]
    if other is None:
        made += [cell for attack in attacks if attack.split == "test" for cell in attack.cells]
    if made:
        title = "validity of the images against"
        cell = _cell(ground, network, {"checks": "images"}, (network.cell, *made), title)
        yield PlannedCheck("images", cell, network, epsilon, images=tuple(made))


def checked_epsilon(study: Study) -> float:
    """The l-inf radius that checks attack in: the study's, else the smallest of its white box, else 8/255."""
    if study.checks.epsilon is not None:
        return study.checks.epsilon
    return study.smallest_radius() or _EPSILON


def _cell(
    ground: Ground, network: Network, identity: dict[str, Any], needs: tuple[Cell, ...], title: str
) -> Cell:
    spec = {
        "data": ground.data["test"],
        "batch_size": ground.study.batch_size,
        **({"revision": REVISION} if REVISION else {}),
        **identity,
    }
    title = f"{title} {ground.title(network.title, network.seed)}"
    return Cell("check", ground.partition(), network.columns, spec, needs, title=title)
