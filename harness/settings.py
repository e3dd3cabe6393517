"""What settings are made of: strict, frozen models, and the kinds of value that several of them share.

Images are in [0, 1], so is every epsilon; YAML may write one as a fraction ("8/255"). A setting marked
``Grid`` may be a list: one network or attack for each of its values.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WrapValidator,
)

from harness.errors import did_you_mean


class Settings(BaseModel):
    """Frozen; unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def grid(cls) -> tuple[str, ...]:
        """The settings that may be lists, in the order of the class; the first varies fastest."""
        return tuple(name for name, field in cls.model_fields.items() if _each_is_marked(field.metadata))

    def expanded(self) -> Iterator[Self]:
        """One copy for each combination of the grid's values: each of its settings is a single value."""
        for name in reversed(self.grid()):
            value = getattr(self, name)
            if isinstance(value, tuple):
                for one in value:
                    yield from self.model_copy(update={name: one}).expanded()
                return
        yield self


class Mistakes(ValueError):
    """Several mistakes of one setting: (what lies below it, or nothing, and a sentence) each."""

    def __init__(self, below: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {sentence}".removeprefix(": ") for name, sentence in below))
        self.below = below


def validated(model: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from plain values, strict in JSON's sense; raises Mistakes that name every one of them."""
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise Mistakes(
            [mistake for item in error.errors() for mistake in _below(dict(item), model)]
        ) from error


def _below(item: dict[str, Any], model: type[Settings]) -> list[tuple[str, str]]:
    """One of pydantic's errors about a model: the dotted path below it and a sentence each."""
    path = ".".join(map(str, item["loc"]))
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Mistakes):
        return [(f"{path}.{below}".strip("."), sentence) for below, sentence in cause.below]
    return [(path, sentence(item, model))]


def sentence(item: Mapping[str, Any], owner: type[BaseModel]) -> str:
    """What is wrong with one setting of its ``owner``, from one of pydantic's errors about it."""
    kind, came = item["type"], item["input"]
    if kind == "extra_forbidden":
        return f"unknown setting{did_you_mean(str(item['loc'][-1]), owner.model_fields)}"
    if kind == "missing":
        return "required, but not given"
    if kind == "literal_error" and isinstance(came, str):
        possible = re.findall("'([^']+)'", item["ctx"]["expected"])
        return f"'{came}' is not possible{did_you_mean(came, possible)}"
    text = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    if kind == "value_error":
        return text
    text += f", got {json.dumps(came)}"
    grid = owner.grid() if issubclass(owner, Settings) else ()
    if isinstance(came, list) and grid:
        text += f" (a list, so a grid, can be given for {' and '.join(grid)} alone)"
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Twice the same would be made twice: ValueError."""
    if len(set(values)) < len(values):
        raise ValueError("should name nothing twice")
    return values


def _each(value: Any, validated: Callable[..., Any]) -> Any:
    """One value, or several, each judged by itself."""
    if not isinstance(value, list | tuple):
        return validated(value)
    if not value:
        raise ValueError("should have at least one value")
    return distinct(tuple(validated(one, position) for position, one in enumerate(value)))


# A field of type Annotated[T, ..., *GRID] takes a T or a list of them; ``expanded`` leaves one T.
_EACH = WrapValidator(_each)
GRID = (_EACH, PlainSerializer(lambda value: value))


def _each_is_marked(metadata: list[Any]) -> bool:
    return any(mark is _EACH for mark in metadata)


def _fraction(value: Any) -> Any:
    """'8/255' -> 8/255; anything else is left for pydantic to judge."""
    match = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*", value)
        if isinstance(value, str)
        else None
    )
    if not match:
        return value
    if float(match[2]) == 0:
        raise ValueError("a fraction needs a divisor other than 0")
    return float(match[1]) / float(match[2])


def epsilon_text(epsilon: float) -> str:
    """8/255 where it is a whole number of grey levels and no short decimal (0.2 is 51/255, too), else 0.3."""
    levels = round(epsilon * 255)
    is_whole = abs(epsilon * 255 - levels) < 1e-6 and abs(epsilon - round(epsilon, 2)) > 1e-9
    return f"{levels}/255" if is_whole else f"{epsilon:g}"


Norm = Literal["linf", "l2", "l1", "l0"]
# A radius in [0, 1] units of a value; l2 and l1 balls may be larger than 1.
Radius = Annotated[float, BeforeValidator(_fraction), Field(gt=0)]
Epsilon = Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
Epsilons = Annotated[tuple[Epsilon, ...], Field(min_length=1), AfterValidator(distinct)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
Count = Annotated[int, Field(ge=1)]


# --- radii, measured --------------------------------------------------------------------------------------

_TOLERANCE = 1e-6  # float32 rounding of x + epsilon; sums of many values round more
_RELATIVE_TOLERANCE = {"linf": 0.0, "l2": 1e-4, "l1": 1e-4, "l0": 0.0}


def largest_within(norm: Norm, epsilon: float) -> float:
    """The largest measured size that counts as within a radius. (Views have the same in `within`.)"""
    return epsilon * (1 + _RELATIVE_TOLERANCE[norm]) + _TOLERANCE
