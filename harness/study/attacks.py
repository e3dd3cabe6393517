"""The attacks of a study: on which network and images each is made, and what determines what it makes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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

    A worst case is planned member by member. The cells of a ``member`` hold the worst case so far, and start
    from those of the one before (``after``, in the same order); all but the last are a stage of it.
    """

    name: str
    split: str
    settings: Attack
    network: Network
    cells: tuple[Cell, ...]
    draws: tuple[str, ...]
    keeps_images: bool = True
    member: str | None = None
    position: int = 0  # among the members
    after: tuple[Cell, ...] = ()
    is_stage: bool = False


@dataclass(frozen=True)
class Member:
    """One attack of a worst case, or (without a name among its members) an attack that is none."""

    attack: str  # what tables call it: that of the last is the worst case's own
    member: str | None
    position: int
    settings: Attack
    whole: Attack
    is_stage: bool

    @property
    def shown(self) -> Attack:
        """Whose method a row names."""
        return self.settings if self.is_stage else self.whole


def members_of(name: str, settings: Attack) -> list[Member]:
    """An attack of a study as it is laid out in cells, in order."""
    members = settings.members()
    if not members:
        return [Member(name, None, 0, settings, settings, is_stage=False)]
    last = len(members) - 1
    return [
        Member(
            name if position == last else f"{name}-{member}", member, position, own, settings, position < last
        )
        for position, (member, own) in enumerate(members)
    ]


def attacks_on(ground: Ground, base: Network) -> Iterable[PlannedAttack]:
    """What is made on one base network: on training images what trainings need, on test images all.

    On validation images all as well, where something is chosen on them.
    """
    study = ground.study
    wanted: dict[str, Mapping[str, Attack]] = {"train": _needed_for_training(study), "test": study.attacks}
    if study.chosen_among():
        wanted["validation"] = study.attacks
    for split, attacks in wanted.items():
        for name, settings in attacks.items():
            yield from _attack(ground, base, name, split, settings)


def _needed_for_training(study: Study) -> dict[str, Attack]:
    """The attacks whose images trainings need, each with the epsilons that they need."""
    sources = [settings.needs().images_of for _, settings in study.networks()]
    wanted: dict[str, Attack] = {}
    for name, settings in study.attacks.items():
        epsilons = dict.fromkeys(source.epsilon for source in sources if source and source.attack == name)
        if epsilons:
            wanted[name] = settings.with_epsilons(tuple(epsilons))
    return wanted


def _attack(
    ground: Ground, base: Network, name: str, split: str, settings: Attack
) -> Iterable[PlannedAttack]:
    def cells_of(member: Member, after: Sequence[Cell | None]) -> Iterable[Cell]:
        identity = {"data": ground.data[split], **attack_identity(ground, base, member)}
        identity["seed"] = base.seed
        partition = ground.partition(split=split, attack=member.attack)
        for epsilon, before in zip(settings.epsilons, after, strict=True):
            columns = {"method": BASE, **base.cell.columns, **attack_columns(member.shown, epsilon)}
            title = ground.title(f"{with_epsilon(member.attack, epsilon)} on {split} images", base.seed)
            needs = (base.cell, *([before] if before else []))
            yield Cell("attack", partition, columns, identity, needs, title=title)

    yield from laid_out(name, settings, split, base, ("attack", name), cells_of)


def laid_out(
    name: str,
    settings: Attack,
    split: str,
    network: Network,
    draws: tuple[str, ...],
    cells_of: Callable[[Member, Sequence[Cell | None]], Iterable[Cell]],
    keeps_images: bool = True,
) -> Iterable[PlannedAttack]:
    """An attack, or the members of a worst case one after the other.

    ``cells_of(member, after)``: a cell for each epsilon, which needs the one of the member before, if any.
    """
    after: tuple[Cell, ...] = ()
    for member in members_of(name, settings):
        cells = tuple(cells_of(member, after or [None] * len(settings.epsilons)))
        yield PlannedAttack(
            member.attack,
            split,
            member.settings,
            network,
            cells,
            draws,
            keeps_images,
            member.member,
            member.position,
            after,
            member.is_stage,
        )
        after = cells


def attack_identity(ground: Ground, network: Network, member: Member) -> dict[str, Any]:
    """What determines the images that an attack makes on a network, but for epsilon, images and seed.

    A worst case is of the true classes, whatever other attacks start from.
    """
    study, settings = ground.study, member.settings
    identity: dict[str, Any] = {
        "settings": settings.identity(),
        "protocol": study.protocol if member.member is None else "label",
        "batch_size": study.batch_size,
        **ground.code_of(network.architecture, settings),
    }
    if settings.revision:
        identity["revision"] = settings.revision
    if member.member is not None:
        identity["member"] = member.member
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
