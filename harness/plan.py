"""Every cell a study consists of, from its settings alone: nothing is computed here.

A cell's spec holds what determines its numbers and nothing else, so that studies share what they
have in common and a changed setting makes anew only what depends on it. Worker and thread counts are
left out: they change at most the last bits of a training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.cells import Cell
from harness.settings import epsilon_text
from harness.spec import AttackSpec, Pgd, PgdSpec, Study, TrainingSpec

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Network:
    """A training cell and what is needed to make it; ``settings`` are its objective's."""

    cell: Cell
    kind: str  # base | vib | adversarial
    spec: TrainingSpec
    settings: Mapping[str, Any]
    adversarial: Cell | None = None  # training images of adversarial training

    @property
    def title(self) -> str:
        """What messages call it."""
        return network_title(self.kind, self.cell.columns)


@dataclass(frozen=True)
class Attack:
    """One attack on one split of the base network: a cell for each epsilon, made in one go."""

    name: str
    split: str
    settings: AttackSpec
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
    """A study's cells, by what they are for. The white box follows once the strongest network is known."""

    study: Study
    identity: Mapping[str, Any]
    bounds: Mapping[str, Cell]
    base: Network
    attacks: tuple[Attack, ...]
    defenses: tuple[Network, ...]
    baselines: tuple[Network, ...]
    black_box: tuple[Evaluation, ...]

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, f1 first."""
        return (self.base, *self.defenses, *self.baselines)

    def cells(self) -> list[Cell]:
        """All cells but the white box's."""
        attacks = [cell for attack in self.attacks for cell in attack.cells]
        return [
            *self.bounds.values(),
            *attacks,
            *(n.cell for n in self.networks),
            *(e.cell for e in self.black_box),
        ]


def plan(study: Study, fingerprint: str, pretrained: str | None) -> Plan:
    """The plan of a study on the data with this fingerprint, from these pretrained weights (their digest)."""
    data = {split: _data_identity(study, fingerprint, split) for split in SPLITS}
    label = study.dataset.label
    bounds = {
        split: Cell(
            "bound",
            {"dataset": label, "split": split},
            {},
            {"queries": data[split], "database": data["train"]},
        )
        for split in SPLITS
    }
    network = {
        "architecture": study.network.model_dump(exclude={"weights"}),
        "pretrained": pretrained,
        "data": data,
    }

    def trained(
        kind: str, spec: TrainingSpec, settings: dict[str, Any], needs: tuple[Cell, ...], **more: Any
    ) -> Network:
        names = {name: settings.get(name) for name in ("k", "n", "training_attack", "training_epsilon")} | {
            "seed": study.seed
        }
        identity = (
            network
            | {"training": spec.model_dump(include=set(TrainingSpec.model_fields) - {"workers", "threads"})}
            | settings
        )
        return Network(
            Cell("training", {"dataset": label, "training": kind}, names, identity, needs),
            kind,
            spec,
            settings,
            **more,
        )

    base = trained("base", study.base, {}, ())
    attacks = tuple(
        _attack(study, data[split], base.cell, name, split, settings)
        for split, wanted in (("train", _sources(study)), ("test", study.attacks))
        for name, settings in wanted.items()
    )
    by_source = {
        (attack.name, cell.columns["epsilon"]): cell
        for attack in attacks
        if attack.split == "train"
        for cell in attack.cells
    }
    defenses = tuple(
        trained(
            "vib", study.defense, {"k": k, "n": n, "redraw": study.defense.redraw, "neighbours": study.neighbours},
            (base.cell, bounds["train"]),
        )
        for n in study.defense.n
        for k in study.defense.k
    )  # fmt: skip
    baselines = tuple(
        trained(
            "adversarial", study.adversarial_training, {"training_attack": s.attack, "training_epsilon": s.epsilon},
            (base.cell, by_source[s.attack, s.epsilon]), adversarial=by_source[s.attack, s.epsilon],
        )
        for s in study.adversarial_training.sources
    )  # fmt: skip
    tests = [None, *(cell for attack in attacks if attack.split == "test" for cell in attack.cells)]
    black_box = tuple(
        _evaluation(study, data["test"], network, images)
        for network in (base, *defenses, *baselines)
        for images in tests
    )
    return Plan(study, {"data": data}, bounds, base, attacks, defenses, baselines, black_box)


def white_box(plan: Plan, networks: tuple[Network, ...]) -> tuple[Evaluation, ...]:
    """PGD against each of ``networks``, for every epsilon and step size (V-E)."""
    study, spec = plan.study, plan.study.white_box
    same = spec.model_dump(include=set(PgdSpec.model_fields) - {"epsilon"})
    return tuple(
        _evaluation(
            study, plan.identity["data"]["test"], network, None,
            Pgd(method="pgd", epsilon=(epsilon,), step_divisor=divisor, **same),
        )
        for network in networks
        for epsilon in spec.epsilon
        for divisor in spec.step_divisors
    )  # fmt: skip


def network_title(training: str, columns: Mapping[str, Any]) -> str:
    """'base', 'vib k=1 n=10', 'adversarial fgsm 8/255': a network by its plain columns."""
    named = [f"{name}={columns[name]:g}" for name in ("k", "n") if columns[name] is not None]
    attack = [columns["training_attack"]] if columns["training_attack"] else []
    epsilon = [epsilon_text(columns["training_epsilon"])] if columns["training_epsilon"] is not None else []
    return " ".join([training, *named, *attack, *epsilon])


def cell_title(cell: Cell) -> str:
    """'fgsm 0.1 on test images', 'vib k=1 n=10 against clean images': what messages call a cell."""
    columns, partition = cell.columns, cell.partition
    if cell.table == "bound":
        return f"bound of the {partition['split']} images"
    if cell.table == "training":
        return network_title(partition["training"], columns)
    epsilon = "" if columns["epsilon"] is None else f" {epsilon_text(columns['epsilon'])}"
    if cell.table == "attack":
        return f"{partition['attack']}{epsilon} on {partition['split']} images"
    attack = "clean images" if partition["access"] == "clean" else f"{columns['attack']}{epsilon}"
    step = f" in steps of {columns['step_size']:.3g}" if partition["access"] == "white_box" else ""
    return f"{network_title(columns['training'], columns)} against {attack}{step}"


def _data_identity(study: Study, fingerprint: str, split: str) -> dict[str, Any]:
    """What determines the images of a split; the seed only where a subset is drawn."""
    limit = study.dataset.train_limit if split == "train" else study.dataset.test_limit
    drawn = limit is not None or study.dataset.classes is not None
    return {
        "fingerprint": fingerprint, "split": split, "classes": study.dataset.classes, "limit": limit, "seed": study.seed if drawn else None,
    }  # fmt: skip


def _sources(study: Study) -> dict[str, AttackSpec]:
    """The attacks that adversarial training needs on training images, each with the epsilons it needs."""
    found: dict[str, AttackSpec] = {}
    for name, settings in study.attacks.items():
        used = tuple(source.epsilon for source in study.adversarial_training.sources if source.attack == name)
        if used:
            found[name] = settings.model_copy(update={"epsilon": used}) if used[0] is not None else settings
    return found


def _step_size(settings: AttackSpec, epsilon: float | None) -> float | None:
    return epsilon / settings.step_divisor if isinstance(settings, Pgd) and epsilon is not None else None


def _attack(
    study: Study, data: dict[str, Any], base: Cell, name: str, split: str, settings: AttackSpec
) -> Attack:
    epsilons: tuple[float | None, ...] = getattr(settings, "epsilon", (None,))
    identity = {
        "data": data, "settings": settings.model_dump(exclude={"epsilon"}), "protocol": study.protocol,
        "batch_size": study.batch_size, "seed": study.seed,
    }  # fmt: skip
    cells = tuple(
        Cell(
            "attack", {"dataset": study.dataset.label, "split": split, "attack": name},
            {"source": "base", "seed": study.seed, "method": settings.method, "epsilon": e, "step_size": _step_size(settings, e)},
            identity, (base,),
        )
        for e in epsilons
    )  # fmt: skip
    return Attack(name, split, settings, cells)


def _evaluation(
    study: Study, data: dict[str, Any], network: Network, images: Cell | None, settings: Pgd | None = None
) -> Evaluation:
    """The cell of one network on one set of test images."""
    epsilon = settings.epsilon[0] if settings else None
    which: dict[str, Any] = {
        "attack": "none",
        "method": "none",
        "epsilon": None,
        "step_size": None,
        "source": "base",
    }
    if images is not None:
        which |= {"attack": images.partition["attack"], "source": "base"}
        which |= {name: images.columns[name] for name in ("method", "epsilon", "step_size")}
    elif settings is not None:
        which |= {
            "attack": "pgd",
            "method": "pgd",
            "epsilon": epsilon,
            "step_size": _step_size(settings, epsilon),
            "source": "self",
        }
    access = "white_box" if settings else "clean" if images is None else "black_box"
    identity: dict[str, Any] = {"data": data, "batch_size": study.batch_size}
    if settings is not None:
        identity |= {"settings": settings.model_dump(), "protocol": study.protocol, "seed": study.seed}
    columns = {"network": network.cell.key, "training": network.kind, **network.cell.columns, **which}
    needs = (network.cell,) if images is None else (network.cell, images)
    return Evaluation(
        Cell("evaluation", {"dataset": study.dataset.label, "access": access}, columns, identity, needs),
        network,
        images,
        settings,
    )
