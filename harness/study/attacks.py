"""The attacks of a study: on which network and images each is made, and what determines what it makes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.attacks.attack import Attack
from harness.attacks.gradient_sign import Pgd
from harness.networks.objective import TrainingAttack
from harness.results.cells import Cell
from harness.settings import epsilon_text
from harness.study.spec import BASE, Study
from harness.study.trainings import Ground, Network

ATTACK_COLUMNS = ("attack_method", "norm", "epsilon", "step_size")


@dataclass(frozen=True)
class PlannedAttack:
    """One attack on one split, made on one network: a cell for each epsilon, in one go.

    The cells are of table ``attack`` where others are tested on the images, else (the white box) of
    ``evaluation``. Draws are derived from the network's seed under the names in ``draws``.
    """

    name: str
    split: str
    settings: Attack
    network: Network
    cells: tuple[Cell, ...]
    draws: tuple[str, ...]
    keeps_images: bool = True
    is_stage: bool = False


def attacks_on(ground: Ground, base: Network) -> Iterable[PlannedAttack]:
    """What is made on one base network: on training images what trainings need, on test images all."""
    wanted = {"train": _needed_for_training(ground.study), "test": ground.study.attacks}
    for split, attacks in wanted.items():
        for name, settings in attacks.items():
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
    identity = {"data": ground.data[split], **attack_identity(ground, base, settings)}
    identity["seed"] = base.seed
    partition = ground.partition(split=split, attack=name)
    cells = []
    for epsilon in settings.epsilons:
        columns = {"method": BASE, **base.cell.columns, **attack_columns(settings, epsilon)}
        title = ground.title(f"{with_epsilon(name, epsilon)} on {split} images", base.seed)
        cells.append(Cell("attack", partition, columns, identity, (base.cell,), title=title))
    return PlannedAttack(name, split, settings, base, tuple(cells), ("attack", name))


def attack_identity(ground: Ground, network: Network, settings: Attack) -> dict[str, Any]:
    """What determines the images that an attack makes on a network, but for epsilon, images and seed."""
    study = ground.study
    identity: dict[str, Any] = {
        "settings": settings.identity(),
        "protocol": study.protocol,
        "batch_size": study.batch_size,
        **ground.code_of(network.architecture, settings),
    }
    if settings.revision:
        identity["revision"] = settings.revision
    return identity


def training_images(attacks: Iterable[PlannedAttack]) -> dict[TrainingAttack, Cell]:
    """Adversarial training images by what trainings call them."""
    made = {}
    for attack in attacks:
        if attack.split == "train":
            for cell in attack.cells:
                made[TrainingAttack(attack=attack.name, epsilon=cell.columns["epsilon"])] = cell
    return made


def attack_columns(settings: Attack, epsilon: float | None) -> dict[str, Any]:
    step = epsilon / settings.step_divisor if isinstance(settings, Pgd) and epsilon is not None else None
    return {
        "attack_method": settings.algorithm,
        "norm": settings.norm,
        "epsilon": epsilon,
        "step_size": step,
    }


def with_epsilon(name: str, epsilon: float | None) -> str:
    return name if epsilon is None else f"{name} {epsilon_text(epsilon)}"
