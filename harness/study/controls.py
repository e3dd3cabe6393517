"""Which controls a study trains beside its defenses, and with which settings.

A control shows what a number is worth without the defense, or (PGD training) what a network that is robust
gets. They are there unless switched off.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from harness.defenses.controls import NoiseLabels, NoNoise
from harness.defenses.defense import Defense
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.networks.training import TrainingSettings
from harness.settings import Count, Epsilon, Settings

# Names of the networks, which are reserved where the control is on: switch -> name.
TWIN = "twin"
NAMES = {
    TWIN: TWIN,
    "no_noise": "no_noise",
    "noise_labels": "noise_labels",
    "pgd_training": "control_pgd",
}
_OF_THE_BOUND = ("no_noise", "noise_labels")  # made where a study has the bound's defense
_EPSILON = 8 / 255


class PgdControl(Settings):
    """PGD training (Madry et al. 2018), which must come out robust: settings that are not the study's."""

    epsilon: Epsilon | None = Field(
        None, description="the smallest l-inf radius of the white box unless given; 8/255 where there is none"
    )
    epochs: Annotated[int, Field(ge=0)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="the base network's unless given"
    )
    batch_size: Count | None = Field(None, description="the base network's unless given")
    steps: Count = Field(7, description="of the inner maximisation, a gradient each")


def _switched(value: Any) -> Any:
    """True: with the settings that nothing else says; false: None, not made."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def _all_switched(value: Any) -> Any:
    """One switch for all: true leaves each as it is unless said otherwise."""
    if not isinstance(value, bool):
        return value
    return {} if value else dict.fromkeys(NAMES, False)


class Controls(Settings):
    """Networks that are trained and tested beside the defenses, of every seed."""

    twin: bool | None = Field(
        None, description="the base network of the next seed; where there are two seeds or more unless given"
    )
    no_noise: bool = Field(True, description="the bound's defense with noise 0")
    noise_labels: bool = Field(True, description="the bound's noise, with labels for f1's outputs")
    pgd_training: Annotated[PgdControl | None, BeforeValidator(_switched)] = Field(
        PgdControl(), description="PGD training, which must come out robust"
    )

    def left_out(self, several_seeds: bool, has_bound: bool) -> dict[str, str]:
        """Switch -> why a study of one or several seeds, with or without the bound's defense, lacks it."""
        reasons = {} if several_seeds else {TWIN: "the study has one seed"}
        reasons |= {} if has_bound else dict.fromkeys(_OF_THE_BOUND, "the study has no imperceptible_bound")
        given = {switch: getattr(self, switch) for switch in NAMES}
        off = [name for name, value in given.items() if value is False or name != TWIN and value is None]
        return reasons | dict.fromkeys(off, "switched off")


GivenControls = Annotated[Controls, BeforeValidator(_all_switched)]


def trained(
    controls: Controls, defenses: Mapping[str, Defense], base: TrainingSettings, epsilon: float | None
) -> Iterator[tuple[str, Defense]]:
    """(name, settings) of the controls that are trained.

    ``defenses`` and ``base`` are the study's; ``epsilon``: the smallest l-inf radius of its white box.
    """
    bound = first_bound(defenses)
    if bound is not None and controls.no_noise:
        shared = _alike(bound)
        yield NAMES["no_noise"], NoNoise(n=_one(bound.n, max), **shared)
    if bound is not None and controls.noise_labels:
        own = {"k": _one(bound.k, min), "n": _one(bound.n, max), "redraw": bound.redraw}
        yield NAMES["noise_labels"], NoiseLabels(**own, **_alike(bound))
    if controls.pgd_training is not None:
        yield NAMES["pgd_training"], _pgd_training(controls.pgd_training, base, epsilon)


def first_bound(defenses: Mapping[str, Defense]) -> ImperceptibleBound | None:
    """The first of the bound's defenses, a grid as the study gives it."""
    return next((each for each in defenses.values() if isinstance(each, ImperceptibleBound)), None)


def _alike(settings: TrainingSettings) -> dict[str, Any]:
    """The training's settings, which two trainings that are compared must share."""
    return {name: getattr(settings, name) for name in TrainingSettings.model_fields}


def _one(values: Any, pick: Callable[[Any], Any]) -> Any:
    """A single value as it is, of a grid's values the one that ``pick`` takes."""
    return pick(values) if isinstance(values, tuple) else values


def _pgd_training(given: PgdControl, base: TrainingSettings, epsilon: float | None) -> PgdTraining:
    own = {name: getattr(given, name) for name in ("learning_rate", "batch_size")}
    said = {name: value for name, value in own.items() if value is not None}
    shared = {**_alike(base), **said, "epochs": given.epochs, "steps": given.steps}
    return PgdTraining(epsilon=given.epsilon or epsilon or _EPSILON, **shared)
