"""A study: frozen, strict models. A study that builds is a study that can be run.

Images are in [0, 1], so is every epsilon; YAML may write one as a fraction ("8/255"). How a study is read,
and how all its mistakes are reported at once, is for ``reading``.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from harness.attacks import ATTACKS
from harness.attacks.attack import Attack, Protocol
from harness.attacks.gradient_sign import PgdSettings
from harness.data.subset import DatasetSpec
from harness.defenses import DEFENSES
from harness.defenses.defense import Defense
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.errors import did_you_mean
from harness.networks import NETWORKS, Architecture
from harness.networks.objective import TrainingAttack
from harness.networks.training import TrainingSettings
from harness.settings import Count, Epsilon, Mistakes, Name, Settings, distinct
from harness.study import controls
from harness.study.certify_settings import CertifySpec
from harness.study.check_settings import ChecksSpec
from harness.study.compute import ComputeSpec
from harness.study.controls import Controls, GivenControls

BASE = "base"  # name and method of the network that attacks are made on and that trainings start from (f1)
FINISHED = "finished"  # method of networks that come with their weights
PGD = "pgd"  # what tables call the white box's sweep over step sizes
CLEAN = "none"  # the attack of clean images

Neighbours = Literal["other_class", "any_class"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
if TYPE_CHECKING:
    AnyAttack = Attack
    AnyDefense = Defense
    AnyNetwork = Architecture
else:
    # Each kind is one dict: a class that is listed there can be named in a study.
    AnyAttack = Annotated[Union[tuple(ATTACKS.values())], Field(discriminator="method")]  # noqa: UP007
    AnyDefense = Annotated[Union[tuple(DEFENSES.values())], Field(discriminator="method")]  # noqa: UP007
    _NETWORKS = Union[tuple(NETWORKS.values())]  # noqa: UP007
    AnyNetwork = Annotated[_NETWORKS, Field(discriminator="architecture")]


class WhiteBoxSpec(PgdSettings):
    """Attacks with full knowledge of each network (V-E): PGD in several step sizes, and the study's own."""

    epsilon: Annotated[tuple[Epsilon, ...], AfterValidator(distinct)] = Field(
        (), description="radii of PGD by Foolbox in the paper's step sizes; none where no radius is given"
    )
    step_divisors: Annotated[
        tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1), AfterValidator(distinct)
    ] = (4, 5, 6, 7, 8, 9, 10)
    attacks: Annotated[tuple[Name, ...], AfterValidator(distinct)] = Field(
        (), description="attacks of the study that are made on each network as well"
    )
    own: dict[Name, AnyAttack] = Field({}, description="attacks that are made on each network alone")
    networks: Annotated[tuple[str, ...], AfterValidator(distinct)] | None = Field(
        None,
        description="base, defenses (all of a grid, or one by its full name) and models; all unless given",
    )
    keep_images: bool = Field(False, description="keep the adversarial images, not their sizes alone")

    @model_validator(mode="after")
    def _attacks_at_all(self) -> Self:
        if not self.epsilon and not self.attacks and not self.own:
            raise ValueError("needs 'epsilon' for PGD, 'attacks' of the study, or attacks of its 'own'")
        return self


def _has_weights(model: Architecture) -> Architecture:
    """A finished model comes with weights: in a file, or by its own code."""
    if getattr(model, "pretrained", False):
        raise ValueError("'pretrained' leaves the last layer to be trained: give 'weights' of all layers")
    if not (model.weights or model.package):
        raise ValueError("a finished model needs 'weights', the file that holds them")
    return model


def _has_what_it_needs(defense: Defense, info: ValidationInfo) -> Defense:
    """Hold a defense against the study's other settings, as far as they are right themselves."""
    mistakes = [("", sentence) for sentence in _unmet(defense, info.data)]
    if mistakes:
        raise Mistakes(mistakes)
    return defense


def _unmet(defense: Defense, study: Mapping[str, Any]) -> Iterator[str]:
    """What a defense needs and the study lacks, a sentence each."""
    wanted = [settings.needs() for settings in defense.expanded()]
    attacks = study.get("attacks")
    if attacks is not None:
        for source in [needs.images_of for needs in wanted if needs.images_of]:
            if mistake := _no_such_images(source, attacks):
                yield mistake
    seeds = study.get("seeds")
    if seeds is not None and len(seeds) < 2 and any(needs.other_bases for needs in wanted):
        yield f"takes images from base networks of other seeds: name two or more, got seeds: {list(seeds)}"


def _no_such_images(source: TrainingAttack, attacks: Mapping[str, Attack]) -> str | None:
    """Why the study does not make these images; None where it does."""
    attack = attacks.get(source.attack)
    if attack is None:
        return f"unknown attack '{source.attack}'{did_you_mean(source.attack, attacks)}"
    if attack.epsilons == (None,):
        return (
            f"'{source.attack}' has no epsilon, got {source.epsilon}" if source.epsilon is not None else None
        )
    if source.epsilon not in attack.epsilons:
        return f"epsilon of '{source.attack}' must be one of {list(attack.epsilons)}, got {source.epsilon}"
    return None


def _unknown_attacks(white_box: WhiteBoxSpec, study: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Attacks that the white box names and the study lacks: where, and a sentence."""
    attacks = study.get("attacks", {})
    for name in white_box.attacks if "attacks" in study else ():
        if name not in attacks:
            yield "attacks", f"unknown attack '{name}'{did_you_mean(name, attacks)}"
        elif name == PGD and white_box.epsilon:
            yield (
                "attacks",
                f"'{PGD}' is what tables call the sweep of 'epsilon': give the attack another name",
            )
    yield from _own_names(white_box, attacks)


def _unknown_networks(names: Iterable[str] | None, study: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Networks that are named under 'networks' and that the study lacks."""
    if {"defenses", "models"} <= study.keys():
        known = [*_network_names(study["defenses"], study["models"])]
        known += _control_names(study, study["defenses"]).keys() - {controls.TWIN}
        for name in names or ():
            if name not in known:
                yield "networks", f"unknown network '{name}'{did_you_mean(name, known)}"


def _own_names(white_box: WhiteBoxSpec, attacks: Mapping[str, Attack]) -> Iterator[tuple[str, str]]:
    """Names of the white box's own attacks that stand for something else."""
    taken = {CLEAN: "clean images", "clean": "clean images"}
    taken |= dict.fromkeys(attacks, "an attack of the study")
    taken |= {PGD: "the sweep of 'epsilon'"} if white_box.epsilon else {}
    for name in white_box.own:
        if name in taken:
            yield f"own.{name}", f"has the name of {taken[name]}: give it another one"


def _network_names(defenses: Mapping[str, Defense], models: Mapping[str, Any]) -> list[str]:
    """What the networks of a study may be called: a whole grid, or each of its networks."""
    names = [BASE, *defenses, *models]
    for entry, defense in defenses.items():
        names += [network_name(entry, settings) for settings in defense.expanded()]
    return list(dict.fromkeys(names))


def _control_names(study: Mapping[str, Any], defenses: Mapping[str, Defense]) -> dict[str, str]:
    """Names that the study's controls have, and what each is called by messages."""
    if not {"controls", "seeds"} <= study.keys():
        return {}
    has_bound = controls.first_bound(defenses) is not None
    absent = study["controls"].left_out(len(study["seeds"]) > 1, has_bound)
    return {
        name: f"a control (controls.{switch}: false leaves it out)"
        for switch, name in controls.NAMES.items()
        if switch not in absent
    }


def _refuse_names(what: str, names: Iterable[str], taken: Mapping[str, str]) -> None:
    """Mistakes where ``names`` of ``what`` are those of other networks."""
    mistakes = [(name, f"{what} can't have the name of {taken[name]}") for name in names if name in taken]
    if mistakes:
        raise Mistakes(mistakes)


def network_name(entry: str, settings: Defense) -> str:
    """The study's own name of one network of a defense: the entry, and the settings that a grid may vary."""
    return f"{entry} {settings.label()}".strip()


class Study(Settings):
    """Everything that determines a study's numbers (``compute`` only where they are made)."""

    name: Name
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        (0,),
        description="a base network, attacks and all defenses for each; images and bound are shared",
    )
    dataset: DatasetSpec
    pictures: Annotated[int, Field(ge=0)] = Field(
        40,
        description="test images kept as pictures with their nearest neighbours, for the report; 0: none",
    )
    neighbours: Neighbours = Field(
        "other_class", description="whose distance gives sigma downstream (III-A: other_class)"
    )
    network: AnyNetwork
    base: TrainingSettings
    controls: GivenControls = Field(
        Controls(),
        description="networks that show what a number is worth without the defense; false: none of them",
    )
    protocol: Protocol = Field(
        "prediction",
        description="attacks start from the network's prediction (the paper, ART) or from the true label",
    )
    attacks: Annotated[dict[Name, AnyAttack], Field(min_length=1)]
    batch_size: Count = Field(
        128, description="images in the network at once; blocks of them are fixed by image order"
    )
    effectiveness_k: Annotated[float, Field(gt=0)] = Field(
        2.0, description="k of the bound that scores attacks (Table III: 2)"
    )
    defenses: dict[Name, Annotated[AnyDefense, AfterValidator(_has_what_it_needs)]] = Field(
        {},
        description="the networks fine-tuned from the base network: a method each, where a list makes a grid",
    )
    models: dict[Name, Annotated[AnyNetwork, AfterValidator(_has_weights)]] = Field(
        {}, description="finished networks, each with its own architecture and weights, tested as they are"
    )
    white_box: WhiteBoxSpec
    checks: ChecksSpec = ChecksSpec()
    certify: CertifySpec | None = Field(None, description="certified radii of the smoothed networks")
    compute: ComputeSpec = ComputeSpec()

    @field_validator("controls")
    @classmethod
    def _has_a_twin(cls, controls: Controls, info: ValidationInfo) -> Controls:
        seeds = info.data.get("seeds")
        if controls.twin and seeds is not None and len(seeds) < 2:
            got = f"needs a base network of another seed: name two or more, got seeds: {list(seeds)}"
            raise Mistakes([("twin", got)])
        return controls

    @field_validator("attacks")
    @classmethod
    def _attack_names(cls, attacks: dict[str, Attack]) -> dict[str, Attack]:
        reserved = "an attack can't have the name by which tables call clean images"
        mistakes = [(name, reserved) for name in (CLEAN, "clean") if name in attacks]
        if mistakes:
            raise Mistakes(mistakes)
        return attacks

    @field_validator("defenses")
    @classmethod
    def _defense_names(cls, defenses: dict[str, Defense], info: ValidationInfo) -> dict[str, Defense]:
        taken = {BASE: "the base network", **_control_names(info.data, defenses)}
        _refuse_names("a defense", defenses, taken)
        return defenses

    @field_validator("models")
    @classmethod
    def _model_names(cls, models: dict[str, Architecture], info: ValidationInfo) -> dict[str, Architecture]:
        defenses = info.data.get("defenses", {})
        taken = {BASE: "the base network", **_control_names(info.data, defenses)}
        _refuse_names("a model", models, {**taken, **dict.fromkeys(defenses, "a defense")})
        return models

    @field_validator("white_box", "certify")
    @classmethod
    def _known_names(cls, section: WhiteBoxSpec | CertifySpec | None, info: ValidationInfo) -> Any:
        attacks = _unknown_attacks(section, info.data) if isinstance(section, WhiteBoxSpec) else ()
        mistakes = [*attacks, *(_unknown_networks(section.networks, info.data) if section else ())]
        if mistakes:
            raise Mistakes(mistakes)
        return section

    def controls_trained(self) -> Iterator[tuple[str, Defense]]:
        """(name, settings) of the controls that are trained, for each seed."""
        return controls.trained(self.controls, self.defenses, self.base, self.smallest_radius())

    def smallest_radius(self) -> float | None:
        """The smallest l-inf radius of the white box; None where it has none."""
        named = [*(self.attacks[name] for name in self.white_box.attacks), *self.white_box.own.values()]
        radii = [epsilon for attack in named if attack.norm == "linf" for epsilon in attack.epsilons]
        return min((*self.white_box.epsilon, *(radius for radius in radii if radius)), default=None)

    def controls_left_out(self) -> dict[str, str]:
        """Name of a control that the study has not -> why."""
        has_bound = controls.first_bound(self.defenses) is not None
        reasons = self.controls.left_out(len(self.seeds) > 1, has_bound)
        return {controls.NAMES[switch]: reason for switch, reason in reasons.items()}

    def chosen_among(self) -> list[str]:
        """The bound's defenses of several k or n whose networks are compared on validation images."""
        if self.dataset.validation_limit is None:
            return []
        bound = {name: each for name, each in self.defenses.items() if isinstance(each, ImperceptibleBound)}
        return [name for name, grid in bound.items() if len([*grid.expanded()]) > 1]

    def networks(self) -> Iterator[tuple[str, Defense]]:
        """(the study's name for it, its settings) of every network that is fine-tuned, the grids laid out."""
        for entry, defense in self.defenses.items():
            for settings in defense.expanded():
                yield entry, settings
