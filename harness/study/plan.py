"""Every cell that a study consists of, from its settings alone: nothing is computed here.

A cell's spec holds what determines its numbers and nothing else, so that studies share what they
have in common and a changed setting makes anew only what depends on it. Worker and thread counts are
left out: they change at most the last bits of a training. A method's ``revision`` is in it above 0: code
that computes something else under the same settings never serves old results.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.attacks.attack import Attack
from harness.attacks.gradient_sign import Pgd, PgdSettings
from harness.networks.objective import TrainingAttack
from harness.results.cells import Cell
from harness.settings import epsilon_text
from harness.study.spec import BASE, CLEAN, Study
from harness.study.trainings import Available, Ground, Network, base_network, defended_network

SPLITS = ("train", "test")


@dataclass(frozen=True)
class PlannedAttack:
    """One attack on one split, made on one base network: a cell for each epsilon, in one go."""

    name: str
    split: str
    settings: Attack
    network: Network
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Evaluation:
    """One network on one set of images: clean, an attack's, or made against the network itself."""

    cell: Cell
    network: Network
    images: Cell | None = None  # attack cell; None for clean images and for the white box
    settings: Pgd | None = None  # white box only


@dataclass(frozen=True)
class Plan:
    """A study's cells, by what they are for; all seeds one after the other.

    The white box's follow once the strongest networks are known.
    """

    ground: Ground
    bounds: Mapping[str, Cell]
    bases: tuple[Network, ...]
    attacks: tuple[PlannedAttack, ...]
    defended: tuple[Network, ...]
    black_box: tuple[Evaluation, ...]

    @property
    def study(self) -> Study:
        return self.ground.study

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, the base networks first."""
        return (*self.bases, *self.defended)

    def trained_by(self, step: str) -> tuple[Network, ...]:
        """The networks of the step 'base-network', 'defense' or 'baselines'."""
        return tuple(network for network in self.networks if network.step == step)

    def cells(self) -> list[Cell]:
        """All cells but the white box's."""
        attacks = [cell for attack in self.attacks for cell in attack.cells]
        networks = [network.cell for network in self.networks]
        return [*self.bounds.values(), *attacks, *networks, *(e.cell for e in self.black_box)]


def plan(study: Study, fingerprint: str, weights: str | None) -> Plan:
    """The plan of a study on the data with this fingerprint.

    ``weights``: digest of the file that base networks start from, None for initial weights drawn by seed.
    """
    data = {split: _images(study, fingerprint, split) for split in SPLITS}
    ground = Ground(study, data, weights)
    bounds = {split: _bound(ground, split) for split in SPLITS}
    bases = tuple(base_network(ground, seed) for seed in study.seeds)
    attacks: list[PlannedAttack] = []
    defended: list[Network] = []
    black_box: list[Evaluation] = []
    for base in bases:
        mine = list(_attacks(ground, base))
        others = tuple(other for other in bases if other is not base)
        available = Available(base, bounds["train"], _training_images(mine), others)
        networks = [defended_network(ground, name, s, available) for name, s in study.networks()]
        attacks += mine
        defended += networks
        for network in (base, *networks):
            black_box += _black_box(ground, network, mine)
    return Plan(ground, bounds, bases, tuple(attacks), tuple(defended), tuple(black_box))


def white_box(plan: Plan, networks: Iterable[Network]) -> tuple[Evaluation, ...]:
    """PGD against each of ``networks``, for every epsilon and step size (V-E)."""
    spec = plan.study.white_box
    same = spec.model_dump(include=set(PgdSettings.model_fields) - {"epsilon"})
    settings = [
        Pgd(method="pgd", epsilon=(epsilon,), step_divisor=divisor, **same)
        for epsilon in spec.epsilon
        for divisor in spec.step_divisors
    ]
    return tuple(_white_box(plan.ground, network, pgd) for network in networks for pgd in settings)


# --- images and the bound ---------------------------------------------------------------------------------


def _images(study: Study, fingerprint: str, split: str) -> dict[str, Any]:
    """What determines the images of a split; the seed only where a subset is drawn."""
    dataset = study.dataset
    limit = dataset.train_limit if split == "train" else dataset.test_limit
    is_drawn = limit is not None or dataset.classes is not None
    return {
        "fingerprint": fingerprint,
        "split": split,
        "classes": dataset.classes,
        "limit": limit,
        "seed": dataset.seed if is_drawn else None,
    }


def _bound(ground: Ground, split: str) -> Cell:
    identity = {"queries": ground.data[split], "database": ground.data["train"]}
    return Cell("bound", ground.partition(split=split), {}, identity, title=f"bound of the {split} images")


# --- attacks ----------------------------------------------------------------------------------------------


def _attacks(ground: Ground, base: Network) -> Iterable[PlannedAttack]:
    """What is made on one base network: on training images what trainings need, on test images all."""
    wanted = {"train": _needed_for_training(ground.study), "test": ground.study.attacks}
    for split in SPLITS:
        for name, settings in wanted[split].items():
            yield _attack(ground, base, name, split, settings)


def _needed_for_training(study: Study) -> dict[str, Attack]:
    """The attacks whose images trainings need, each with the epsilons that they need."""
    sources = [settings.needs().images_of for _, settings in study.networks()]
    wanted: dict[str, Attack] = {}
    for name, settings in study.attacks.items():
        epsilons = dict.fromkeys(source.epsilon for source in sources if source and source.attack == name)
        if epsilons:
            wanted[name] = settings.with_epsilons(tuple(epsilons))
    return wanted


def _attack(ground: Ground, base: Network, name: str, split: str, settings: Attack) -> PlannedAttack:
    study = ground.study
    identity: dict[str, Any] = {
        "data": ground.data[split],
        "settings": settings.identity(),
        "protocol": study.protocol,
        "batch_size": study.batch_size,
        "seed": base.seed,
    }
    if settings.revision:
        identity["revision"] = settings.revision
    partition = ground.partition(split=split, attack=name)
    cells = []
    for epsilon in settings.epsilons:
        columns = {"method": BASE, **base.cell.columns, **_attack_columns(settings, epsilon)}
        title = ground.title(f"{_with_epsilon(name, epsilon)} on {split} images", base.seed)
        cells.append(Cell("attack", partition, columns, identity, (base.cell,), title=title))
    return PlannedAttack(name, split, settings, base, tuple(cells))


def _training_images(attacks: Iterable[PlannedAttack]) -> dict[TrainingAttack, Cell]:
    """Adversarial training images by what trainings call them."""
    made = {}
    for attack in attacks:
        if attack.split == "train":
            for cell in attack.cells:
                made[TrainingAttack(attack=attack.name, epsilon=cell.columns["epsilon"])] = cell
    return made


def _attack_columns(settings: Attack, epsilon: float | None) -> dict[str, Any]:
    step = epsilon / settings.step_divisor if isinstance(settings, Pgd) and epsilon is not None else None
    return {"attack_method": settings.algorithm, "epsilon": epsilon, "step_size": step}


def _with_epsilon(name: str, epsilon: float | None) -> str:
    return name if epsilon is None else f"{name} {epsilon_text(epsilon)}"


# --- evaluations ------------------------------------------------------------------------------------------


def _black_box(ground: Ground, network: Network, attacks: Iterable[PlannedAttack]) -> Iterable[Evaluation]:
    """A network on clean images and on those made on the base network of its seed."""
    clean = {"attack": CLEAN, "attack_method": CLEAN, "epsilon": None, "step_size": None, "source": None}
    yield Evaluation(_evaluation(ground, "clean", network, clean, "clean images"), network)
    for attack in attacks:
        if attack.split == "test":
            for images in attack.cells:
                columns = {"attack": attack.name, "source": attack.network.name}
                columns |= {name: images.columns[name] for name in ("attack_method", "epsilon", "step_size")}
                against = _with_epsilon(attack.name, images.columns["epsilon"])
                cell = _evaluation(ground, "black_box", network, columns, against, (images,))
                yield Evaluation(cell, network, images)


def _white_box(ground: Ground, network: Network, settings: Pgd) -> Evaluation:
    (epsilon,) = settings.epsilon
    columns = {"attack": "pgd", "source": network.name, **_attack_columns(settings, epsilon)}
    identity: dict[str, Any] = {
        "settings": settings.model_dump(),
        "protocol": ground.study.protocol,
        "seed": network.seed,
    }
    if settings.revision:
        identity["revision"] = settings.revision
    against = f"{_with_epsilon('pgd', epsilon)} in steps of {columns['step_size']:.3g}"
    cell = _evaluation(ground, "white_box", network, columns, against, attack=identity)
    return Evaluation(cell, network, None, settings)


def _evaluation(
    ground: Ground,
    access: str,
    network: Network,
    columns: Mapping[str, Any],
    against: str,
    images: tuple[Cell, ...] = (),
    attack: Mapping[str, Any] | None = None,
) -> Cell:
    """The cell of a network on a set of test images; ``attack`` is what determines images made on the way."""
    identity = {"data": ground.data["test"], "batch_size": ground.study.batch_size, **(attack or {})}
    named = {"network": network.cell.key, "method": network.method, **network.cell.columns, **columns}
    needs = (network.cell, *images)
    title = f"{network.cell.title} against {against}"
    return Cell("evaluation", ground.partition(access=access), named, identity, needs, title=title)
