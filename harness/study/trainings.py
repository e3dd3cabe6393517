"""The networks of a study: a training each, what determines it, and what it is given."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.defenses.defense import Defense
from harness.networks.objective import Needs, TrainingAttack
from harness.networks.training import TrainingSettings
from harness.results.cells import Cell
from harness.study.spec import BASE, Study

_SCHEDULING = {"workers", "threads"}  # settings of a training that change no number of it
_PLAIN = ("k", "n", "training_attack", "training_epsilon")  # settings that have columns of their own


@dataclass(frozen=True)
class Ground:
    """What all cells of a study stand on: the images of each split, and the base networks' initial weights.

    ``data``: split -> what determines its images; ``weights``: digest of their file, None where they are
    drawn.
    """

    study: Study
    data: Mapping[str, Mapping[str, Any]]
    weights: str | None

    def partition(self, **folders: str) -> dict[str, str]:
        """The hive folders of a cell."""
        return {"dataset": self.study.dataset.label, **folders}

    def title(self, title: str, seed: int) -> str:
        """What messages call a thing: the seed is named where a study has several."""
        return f"{title} (seed {seed})" if len(self.study.seeds) > 1 else title


@dataclass(frozen=True)
class Network:
    """A training, what it is given, and what tables call it (messages: the cell's title).

    ``draws`` are the names under which its randomness is derived from ``seed``. ``base`` is the cell that
    the training starts from, None for a base network itself; the other cells are there as ``needs`` says.
    """

    cell: Cell
    name: str
    title: str
    seed: int
    settings: TrainingSettings
    draws: tuple[str, ...]
    needs: Needs = Needs()
    base: Cell | None = None
    images: Cell | None = None
    other_bases: tuple[Cell, ...] = ()

    @property
    def method(self) -> str:
        return self.cell.partition["method"]

    @property
    def step(self) -> str:
        """The step that trains it."""
        return self.settings.step if isinstance(self.settings, Defense) else "base-network"


@dataclass(frozen=True)
class Available:
    """What was planned for one seed before its defenses: cells that a training may need."""

    base: Network
    bound: Cell
    images: Mapping[TrainingAttack, Cell]
    other_bases: tuple[Network, ...]


def base_network(ground: Ground, seed: int) -> Network:
    """The network that attacks are made on and that defenses start from."""
    settings = ground.study.base
    shown = settings.model_dump(mode="json", exclude=_SCHEDULING)
    columns = {"name": BASE, "settings": json.dumps(shown), **dict.fromkeys(_PLAIN), "seed": seed}
    identity = _identity(ground, settings)
    cell = Cell("training", ground.partition(method=BASE), columns, identity, title=ground.title(BASE, seed))
    return Network(cell, BASE, BASE, seed, settings, (BASE,))


def defended_network(ground: Ground, entry: str, settings: Defense, available: Available) -> Network:
    """A network fine-tuned from the base network: an entry of the study's defenses, with single values."""
    needs, base = settings.needs(), available.base
    images = available.images[needs.images_of] if needs.images_of else None
    others = tuple(other.cell for other in available.other_bases) if needs.other_bases else ()
    bound = (available.bound,) if needs.bound else ()
    name = f"{entry} {settings.label()}".strip()
    title = f"{entry.replace('_', ' ')} {settings.label()}".strip()
    shown = settings.model_dump(mode="json", exclude={*_SCHEDULING, "method"})
    plain = settings.columns()
    cell = Cell(
        "training",
        ground.partition(method=settings.algorithm),
        {
            "name": name,
            "settings": json.dumps(shown),
            **{column: plain.get(column) for column in _PLAIN},
            "seed": base.seed,
        },
        _identity(ground, settings) | _own_identity(ground, settings, needs),
        (base.cell, *bound, *([images] if images else []), *others),
        title=ground.title(title, base.seed),
    )
    draws = settings.draws(ground.study.neighbours)
    return Network(cell, name, title, base.seed, settings, draws, needs, base.cell, images, others)


def _identity(ground: Ground, settings: TrainingSettings) -> dict[str, Any]:
    """What determines a network but for a defense's own settings."""
    network = ground.study.network
    identity: dict[str, Any] = {
        "architecture": network.identity(),
        "weights": ground.weights,
        "data": ground.data,
        "training": settings.model_dump(include=set(TrainingSettings.model_fields) - _SCHEDULING),
    }
    if network.revision:
        identity["architecture_revision"] = network.revision
    return identity


def _own_identity(ground: Ground, settings: Defense, needs: Needs) -> dict[str, Any]:
    """A defense's own settings, and what of the study's changes what it is given."""
    identity: dict[str, Any] = {"method": settings.algorithm, "settings": settings.identity()}
    if needs.bound:
        identity["neighbours"] = ground.study.neighbours
    if settings.revision:
        identity["revision"] = settings.revision
    return identity
