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

    In the white box: the base network on images that were made on itself, measured when they were.
    """

    cell: Cell
    network: Network
    images: Cell | None = None  # attack cell; None for clean images
    is_stage: bool = False  # of a worst case that goes on: see ``PlannedAttack``


def black_box_of(ground: Ground, network: Network, attacks: Iterable[PlannedAttack]) -> Iterable[Evaluation]:
    """A network on clean images and on those made on the base network of its seed, stages left out."""
    clean = {"attack": CLEAN, **dict.fromkeys(ATTACK_COLUMNS), "attack_method": CLEAN, "source": None}
    yield Evaluation(_evaluation(ground, "clean", network, clean, "clean images"), network)
    yield from _on_images(ground, "black_box", network, [each for each in attacks if not each.is_stage])


def _on_images(
    ground: Ground, access: str, network: Network, attacks: Iterable[PlannedAttack]
) -> Iterable[Evaluation]:
    """A network on the test images that attacks made on the base network of its seed."""
    for attack in attacks:
        for images in attack.cells if attack.split == "test" else ():
            columns = {"attack": attack.name, "source": attack.network.name}
            columns |= {name: images.columns[name] for name in ATTACK_COLUMNS}
            against = with_epsilon(attack.name, images.columns["epsilon"])
            cell = _evaluation(ground, access, network, columns, against, (images,))
            yield Evaluation(cell, network, images, attack.is_stage)


def _evaluation(
    ground: Ground,
    access: str,
    network: Network,
    columns: Mapping[str, Any],
    against: str,
    images: tuple[Cell, ...] = (),
    attack: Mapping[str, Any] | None = None,
) -> Cell:
    """The cell of a network on a set of test images.

    ``images``: the cell that holds them, or that they are made from; ``attack`` is what determines images
    made on the way.
    """
    identity = {
        "data": ground.data["test"],
        "batch_size": ground.study.batch_size,
        **ground.code_of(network.architecture),
        **(attack or {}),
    }
    shared = {**network.cell.columns, "seed": network.seed}
    named = {"network": network.cell.key, "method": network.method, **shared, **columns}
    needs = (network.cell, *images)
    title = f"{network.cell.title} against {against}"
    if network.cell.columns["seed"] is None:  # a finished model's title names none
        title = ground.title(title, network.seed)
    return Cell(
        "evaluation", ground.partition(split="test", access=access), named, identity, needs, title=title
    )


# --- the white box ----------------------------------------------------------------------------------------


def in_white_box(study: Study, networks: Iterable[Network]) -> list[Network]:
    """The networks that the white box attacks: all, unless the study names some."""
    names = study.white_box.networks
    if names is None:
        return list(networks)
    return [network for network in networks if {network.name, network.entry} & {*names}]


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
    """An attack on the test images made on a network: evaluations, one for each epsilon."""
    keeps_images = ground.study.white_box.keep_images

    def cells_of(member: Member, after: Sequence[Cell | None]) -> Iterable[Cell]:
        identity = attack_identity(ground, network, member) | {"draws": draws}
        if keeps_images:
            identity["keep_images"] = True
        for epsilon, before in zip(settings.epsilons, after, strict=True):
            columns = {"attack": member.attack, "source": network.name}
            columns |= attack_columns(member.shown, epsilon)
            against = with_epsilon(member.attack, epsilon)
            if columns["step_size"] is not None:
                against += f" in steps of {columns['step_size']:.3g}"
            needs = (before,) if before else ()
            yield _evaluation(ground, "white_box", network, columns, against, needs, identity)

    yield from laid_out(name, settings, "test", network, draws, cells_of, keeps_images)
