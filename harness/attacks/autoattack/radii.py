"""The norm of an attack's ball, and its radii: settings."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from harness.settings import Mistakes, Radius, Settings, distinct

PNorm = Literal["linf", "l2", "l1"]
_Radius = Annotated[Radius, Field(allow_inf_nan=False)]


class Radii(Settings):
    """Settings ``norm`` and ``epsilon``, the radii in it, of an attack on the whole ball."""

    model_config = ConfigDict(serialize_by_alias=True)

    epsilon: Annotated[tuple[_Radius, ...], Field(min_length=1), AfterValidator(distinct)]
    # ``norm`` is a property of every attack; in a study the setting is called so, too.
    ball: PNorm = Field("linf", alias="norm", description="of the radii")

    @model_validator(mode="after")
    def _no_radius_beyond_the_box(self) -> Self:
        if self.ball == "linf" and max(self.epsilon) > 1:
            came = f"should be at most 1 in linf, as values are in [0, 1], got {max(self.epsilon):g}"
            raise Mistakes([("epsilon", came)])
        return self

    @property
    def norm(self) -> PNorm:
        """See ``Attack``."""
        return self.ball
