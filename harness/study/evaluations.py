"""The evaluations of a study: every network on every set of images, and attacked itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.attacks.attack import Attack
from harness.attacks.gradient_sign import Pgd, PgdSettings
from harness.results.cells import Cell
from harness.study.attacks import (
    ATTACK_COLUMNS,
    Member,
    PlannedAttack,
    attack_columns,
    attack_identity,
    laid_out,
    members_of,
    with_epsilon,
)
from harness.study.spec import BASE, CLEAN, PGD, Study
from harness.study.trainings import Ground, Network


@dataclass(frozen=True)
class Evaluation:
    """One network on one set of images: clean ones, or an attack's, made on the base network.

    In the white box: a base network on images that were made on itself, measured when they were.
    """

    cell: Cell
    network: Network
    images: Cell | None = None  # cell of table attack or, in the white box, evaluation; None for clean images
    is_stage: bool = False  # of a worst case that goes on: see ``PlannedAttack``


def black_box_of(
    ground: Ground, network: Network, attacks: Iterable[PlannedAttack], split: str = "test"
) -> Iterable[Evaluation]:
    """A network on clean images of a split and on those made of them on the base network of its seed.

    Stages of a worst case are left out.
    """
    clean = {"attack": CLEAN, **dict.fromkeys(ATTACK_COLUMNS), "attack_method": CLEAN, "source": None}
    against = "clean images" if split == "test" else f"clean {split} images"
    yield Evaluation(_evaluation(ground, "clean", network, clean, against, split=split), network)
    whole = [each for each in attacks if not each.is_stage]
    yield from _on_images(ground, "black_box", network, whole, split)


def on_validation_images(study: Study, networks: Iterable[Network]) -> list[Network]:
    """The networks that are chosen among, and the base network beside them; none where nothing is chosen."""
    named = {BASE, *study.chosen_among()} if study.chosen_among() else {}
    return [network for network in networks if network.entry in named]


def _on_images(
    ground: Ground, access: str, network: Network, attacks: Iterable[PlannedAttack], split: str = "test"
) -> Iterable[Evaluation]:
    """A network on the images of a split that attacks made on the base network of its seed."""
    for attack in attacks:
        for images in attack.cells if attack.split == split else ():
            columns = {"attack": attack.name, "source": attack.network.name}
            columns |= {name: images.columns[name] for name in ATTACK_COLUMNS}
            against = with_epsilon(attack.name, images.columns["epsilon"])
            if split != "test":
                against += f" on {split} images"
            cell = _evaluation(ground, access, network, columns, against, (images,), split=split)
            yield Evaluation(cell, network, images, attack.is_stage)


def _evaluation(
    ground: Ground,
    access: str,
    network: Network,
    columns: Mapping[str, Any],
    against: str,
    images: tuple[Cell, ...] = (),
    attack: Mapping[str, Any] | None = None,
    split: str = "test",
) -> Cell:
    """The cell of a network on a set of images; in the white box on those of the split that it takes.

    ``images``: the cell that holds them, or that they are made from; ``attack`` is what determines images
    made on the way.
    """
    identity = {
        "data": ground.attacked if access == "white_box" else ground.data[split],
        "batch_size": ground.study.batch_size,
        **ground.code_of(network.architecture),
        **(attack or {}),
    }
    named = {**network.columns, **columns}
    needs = (network.cell, *images)
    title = f"{ground.title(network.title, network.seed)} against {against}"
    return Cell(
        "evaluation", ground.partition(split=split, access=access), named, identity, needs, title=title
    )


# --- the white box ----------------------------------------------------------------------------------------


def in_white_box(study: Study, networks: Iterable[Network]) -> list[Network]:
    """The networks that the white box attacks: all, unless the study names some."""
    names = study.white_box.networks
    if names is None:
        return list(networks)
    return [network for network in networks if {network.name, network.entry} & {*names}]


def copied_to_twin(
    ground: Ground, twin: Network, measured: Iterable[Evaluation], attacks: Iterable[PlannedAttack]
) -> Iterable[Evaluation]:
    """The white box of a twin: that of the base network that it is, whose evaluations are copied."""
    made = [(each.cell, each.is_stage) for each in measured]
    made += [(cell, attack.is_stage) for attack in attacks for cell in attack.cells]
    for cell, is_stage in made:
        columns = {name: cell.columns[name] for name in ("attack", *ATTACK_COLUMNS)} | {"source": twin.name}
        copy = _evaluation(ground, "white_box", twin, columns, _against(columns), (cell,))
        yield Evaluation(copy, twin, cell, is_stage)


def measured_on(ground: Ground, network: Network, attacks: Iterable[PlannedAttack]) -> Iterable[Evaluation]:
    """The study's attacks on the base network: made there, they are its white box already."""
    if network.method != BASE:
        return
    wanted = {
        member.attack
        for name in ground.study.white_box.attacks
        for member in members_of(name, ground.study.attacks[name])
    }
    yield from _on_images(ground, "white_box", network, [each for each in attacks if each.name in wanted])


def white_box_of(ground: Ground, network: Network) -> Iterable[PlannedAttack]:
    """PGD for every step size (V-E), the study's attacks on networks other than the base network, its own."""
    spec = ground.study.white_box
    same = spec.model_dump(include=set(PgdSettings.model_fields))
    for divisor in spec.step_divisors if spec.epsilon else ():
        sweep = Pgd(method="pgd", step_divisor=divisor, **same)
        yield from _attack_on(ground, network, PGD, sweep, ("white_box",))
    for name in spec.attacks if network.method != BASE else ():
        yield from _attack_on(ground, network, name, ground.study.attacks[name], ("attack", name))
    for name, settings in spec.own.items():
        yield from _attack_on(ground, network, name, settings, ("attack", name))


def _attack_on(
    ground: Ground, network: Network, name: str, settings: Attack, draws: tuple[str, ...]
) -> Iterable[PlannedAttack]:
    """An attack on the white box's test images made on a network: evaluations, one for each epsilon."""
    keeps_images = ground.study.white_box.keep_images

    def cells_of(member: Member, after: Sequence[Cell | None]) -> Iterable[Cell]:
        identity = attack_identity(ground, network, member) | {"draws": draws}
        if keeps_images:
            identity["keep_images"] = True
        for epsilon, before in zip(settings.epsilons, after, strict=True):
            columns = {"attack": member.attack, "source": network.name}
            columns |= attack_columns(member.shown, epsilon)
            needs = (before,) if before else ()
            yield _evaluation(ground, "white_box", network, columns, _against(columns), needs, identity)

    yield from laid_out(name, settings, "white_box", network, draws, cells_of, keeps_images)


def _against(columns: Mapping[str, Any]) -> str:
    """What messages call an attack of the white box, of its columns."""
    against = with_epsilon(columns["attack"], columns["epsilon"])
    step = columns["step_size"]
    return against if step is None else f"{against} in steps of {step:.3g}"
