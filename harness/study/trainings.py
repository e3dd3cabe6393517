"""The networks of a study: a training each, what determines it, and what it is given."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.attacks.attack import Attack
from harness.defenses.defense import Defense
from harness.networks import Architecture
from harness.networks.objective import Needs, TrainingAttack
from harness.networks.training import TrainingSettings
from harness.results.cells import Cell
from harness.study.controls import TWIN
from harness.study.spec import BASE, FINISHED, Study, network_name

# What a network is in its study: f1, the paper's defense, one that it is compared with, one that shows what a
# number is worth without the defense, or finished.
Role = Literal["base", "defense", "baseline", "control", "model"]
_SCHEDULING = {"workers", "threads"}  # settings of a training that change no number of it
_PLAIN = ("k", "n", "training_attack", "training_epsilon")  # settings that have columns of their own


@dataclass(frozen=True)
class Ground:
    """What all cells of a study stand on: the images of each split, weights and code from outside.

    ``data``: split -> what determines its images; ``attacked``: what determines those of the test images that
    the white box attacks; ``weights``: name of a network (base, or a finished model)
    -> digest of the file that it starts with; ``code``: top-level package -> digest of its sources.
    """

    study: Study
    data: Mapping[str, Mapping[str, Any]]
    attacked: Mapping[str, Any]
    weights: Mapping[str, str]
    code: Mapping[str, str]

    def partition(self, **folders: str) -> dict[str, str]:
        """The hive folders of a cell."""
        return {"dataset": self.study.dataset.label, **folders}

    def code_of(self, *settings: Architecture | Attack | TrainingSettings) -> dict[str, Any]:
        """The part of a cell's spec that says which code from outside it is made with; empty for none."""
        packages = [getattr(each, "package", None) for each in settings]
        named = sorted({package for package in packages if package})
        return {"code": {package: self.code[package] for package in named}} if named else {}

    def title(self, title: str, seed: int) -> str:
        """What messages call a thing: the seed is named where a study has several."""
        return f"{title} (seed {seed})" if len(self.study.seeds) > 1 else title


@dataclass(frozen=True)
class Network:
    """A training, what it is given, and what tables call it (messages: the cell's title).

    ``draws`` are the names under which its randomness is derived from ``seed``. ``base`` is the cell that
    the training starts from, None for a base network and a finished model; the other cells are there as
    ``needs`` says. A finished model is the same for every ``seed``, that of the attacks on it. ``entry``: the
    name in the study, which all networks of a grid share; ``role``: what it is in the study.
    """

    cell: Cell
    entry: str
    name: str
    title: str
    seed: int
    architecture: Architecture
    settings: TrainingSettings
    draws: tuple[str, ...]
    needs: Needs = Needs()
    base: Cell | None = None
    images: Cell | None = None
    other_bases: tuple[Cell, ...] = ()
    role: Role = "baseline"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that name it in rows of what was measured on it."""
        named = {"network": self.cell.key, "method": self.method}
        return {**named, **self.cell.columns, "name": self.name, "seed": self.seed}

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
    architecture = ground.study.network
    identity = _identity(ground, BASE, architecture, settings)
    cell = Cell("training", ground.partition(method=BASE), columns, identity, title=ground.title(BASE, seed))
    return Network(cell, BASE, BASE, BASE, seed, architecture, settings, (BASE,), role="base")


def finished_model(ground: Ground, name: str) -> Network:
    """A network that comes with its weights: a training of no epochs, the same in every study.

    What its code draws is drawn by seed 0; the attacks on it have the study's seeds.
    """
    architecture, settings = ground.study.models[name], TrainingSettings(epochs=0)
    shown = architecture.model_dump(mode="json")
    columns = {"name": name, "settings": json.dumps(shown), **dict.fromkeys(_PLAIN), "seed": None}
    identity = _identity(ground, name, architecture, settings)
    cell = Cell("training", ground.partition(method=FINISHED), columns, identity, title=name)
    return Network(cell, name, name, name, 0, architecture, settings, (FINISHED,), role="model")


def twin_of(base: Network, other: Network) -> Network:
    """Another seed's base network as the control of ``base``: tested on the attacks made on that.

    It is trained already, and nothing was done to make it robust.
    """
    return replace(other, entry=TWIN, name=TWIN, title=f"control: {TWIN}", seed=base.seed, role="control")


def defended_network(ground: Ground, entry: str, settings: Defense, available: Available) -> Network:
    """A network fine-tuned from the base network: an entry of the study's defenses, with single values."""
    title = f"{entry.replace('_', ' ')} {settings.label()}".strip()
    role: Role = "defense" if settings.step == "defense" else "baseline"
    return _fine_tuned(ground, entry, network_name(entry, settings), title, role, settings, available)


def control_network(ground: Ground, name: str, settings: Defense, available: Available) -> Network:
    """A network fine-tuned from the base network, which shows what a defense is worth: see ``controls``."""
    title = f"control: {settings.title}"
    return _fine_tuned(ground, name, name, title, "control", settings, available)


def _fine_tuned(
    ground: Ground,
    entry: str,
    name: str,
    title: str,
    role: Role,
    settings: Defense,
    available: Available,
) -> Network:
    needs, base = settings.needs(), available.base
    images = available.images[needs.images_of] if needs.images_of else None
    others = tuple(other.cell for other in available.other_bases) if needs.other_bases else ()
    bound = (available.bound,) if needs.bound else ()
    architecture = ground.study.network
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
        _identity(ground, BASE, architecture, settings) | _own_identity(ground, settings, needs),
        (base.cell, *bound, *([images] if images else []), *others),
        title=ground.title(title, base.seed),
    )
    return Network(
        cell,
        entry,
        name,
        title,
        base.seed,
        architecture,
        settings,
        settings.draws(ground.study.neighbours),
        needs,
        base.cell,
        images,
        others,
        role,
    )


def _identity(
    ground: Ground, name: str, architecture: Architecture, settings: TrainingSettings
) -> dict[str, Any]:
    """What determines a network but for a defense's own settings; ``name``: whose weights it starts with."""
    identity: dict[str, Any] = {
        "architecture": architecture.identity(),
        "weights": ground.weights.get(name),
        "data": ground.data,
        "training": settings.model_dump(include=set(TrainingSettings.model_fields) - _SCHEDULING),
        **ground.code_of(architecture, settings),
    }
    if architecture.revision:
        identity["architecture_revision"] = architecture.revision
    return identity


def _own_identity(ground: Ground, settings: Defense, needs: Needs) -> dict[str, Any]:
    """A defense's own settings, and what of the study's changes what it is given."""
    identity: dict[str, Any] = {"method": settings.algorithm, "settings": settings.identity()}
    if needs.bound:
        identity["neighbours"] = ground.study.neighbours
    if settings.revision:
        identity["revision"] = settings.revision
    return identity
