"""A defense from outside the package: a function with the harness's mark."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from harness.defenses.defense import Defense, label_of
from harness.errors import HarnessError
from harness.extensions import Kind, Used
from harness.extensions.marks import DefenseMark
from harness.networks.objective import Inputs, Needs, Objective
from harness.settings import validated


class ForeignDefense(Used, Defense):
    """A function ``f(inputs, seed, *, settings) -> Objective``, see ``extensions.defense``.

    Its settings that are marked with ``settings.GRID`` may be lists.
    """

    kind: ClassVar[Kind] = "defense"

    method: Literal["foreign"] = "foreign"

    @property
    def samples_per_image(self) -> int:
        return int(self._number("samples_per_image"))

    @property
    def gradients_per_sample(self) -> float:
        return self._number("gradients_per_sample")

    def _number(self, what: str) -> float:
        return self.extension().number(what, self._keywords())

    def _keywords(self) -> dict[str, Any]:
        (keywords,) = self.extension().keywords(self.settings)
        return keywords

    def expanded(self) -> Iterator[Self]:
        """One copy for each combination of the values of the function's settings."""
        for single in validated(self.extension().settings, self.settings).expanded():
            yield self.model_copy(update={"settings": single.model_dump(mode="json")})

    def label(self) -> str:
        """See ``Defense``: the function's settings that may be a grid."""
        return label_of({name: self.settings[name] for name in self.extension().settings.grid()})

    def needs(self) -> Needs:
        mark = self.extension().mark
        assert isinstance(mark, DefenseMark)
        return Needs(bound=mark.bound, base_outputs=mark.base_outputs, other_bases=mark.other_bases)

    def columns(self) -> dict[str, Any]:
        """The setting ``epsilon``, where there is one that is a number."""
        epsilon = self.settings.get("epsilon")
        return {"training_epsilon": epsilon} if isinstance(epsilon, float) else {}

    def draws(self, neighbours: str) -> tuple[str, ...]:
        """Where the function is from, and its settings."""
        return (self.algorithm, *(f"{name}={value!r}" for name, value in self.settings.items()))

    def objective(self, inputs: Inputs, seed: int) -> Objective:
        """What the function returns; HarnessError where that is no objective."""
        extension = self.extension()
        made = extension.call(inputs, seed, **self._keywords())
        if not isinstance(made, Objective):
            raise HarnessError(f"{extension.algorithm} should return an Objective, got {type(made).__name__}")
        if not isinstance(made.samples, int) or made.samples < 1 or not callable(made.loss):
            expected = "an Objective of at least one sample and a loss"
            raise HarnessError(f"{extension.algorithm} should return {expected}, got {made}")
        return made
