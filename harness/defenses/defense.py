"""What a defense is: a training that goes on from the base network, its settings and its objective."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.networks.objective import Inputs, Needs, Objective
from harness.networks.training import TrainingSettings
from harness.settings import epsilon_text


class Defense(TrainingSettings):
    """A method that makes a network of the base network by training it on, with the method's settings.

    One class a method, listed in ``DEFENSES``; ``revision`` goes up when its code changes what it computes.
    Settings marked with ``settings.GRID`` may be lists in a study, one training for each combination: all but
    ``grid`` and ``expanded`` are for one of these, an instance of single values.
    """

    title: ClassVar[str]  # for tables, e.g. 'TRADES'
    revision: ClassVar[int] = 0
    step: ClassVar[Literal["defense", "baselines"]] = "baselines"  # that trains it: 'defense' for the paper's

    epochs: Annotated[int, Field(ge=0)] = 10
    method: str  # narrowed to the Literal that a study names it by

    @property
    def algorithm(self) -> str:
        """What the tables call the method; one from outside has the name of where it is from."""
        return self.method

    @property
    def package(self) -> str | None:
        """The top-level package from outside whose code makes the objective; None for the harness's own."""
        return None

    def identity(self) -> dict[str, Any]:
        """The method's own settings: what determines the objective beside the study's."""
        return self.model_dump(mode="json", exclude={*TrainingSettings.model_fields, "method"})

    @abstractmethod
    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """What is minimised on these inputs, which hold what ``needs`` says; draws follow from ``seed``."""

    def needs(self) -> Needs:
        """What the objective is made from beside clean images and labels."""
        return Needs()

    def columns(self) -> dict[str, Any]:
        """Those of k, n, training_attack and training_epsilon that mean something here."""
        return {}

    def label(self) -> str:
        """The settings that may be a grid, each of them: 'k=1 n=10', 'epsilon=8/255 beta=6'.

        A network's name holds this, and must not change when a grid grows.
        """
        return label_of({name: getattr(self, name) for name in self.grid()})

    def draws(self, neighbours: str) -> tuple[str, ...]:
        """The names under which the training's randomness is derived from a study's seed: its own settings.

        ``neighbours`` are the study's kind of nearest neighbours, for what depends on the bound.
        """
        shared = {*TrainingSettings.model_fields, "method"}
        own = [name for name in type(self).model_fields if name not in shared]
        return (self.method, *(repr(getattr(self, name)) for name in own))


def label_of(settings: Mapping[str, Any]) -> str:
    """Single settings by name: 'epsilon=8/255 beta=6'."""
    return " ".join(f"{name}={_text(name, value)}" for name, value in settings.items())


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name == "epsilon":
        return epsilon_text(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)  # two settings never share a name
