"""The arguments of a library's class: what its signature says of them, and whether a study's values fit.

A study holds plain values: numbers, words, booleans, null, and lists and mappings of them.
"""

import inspect
import json
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import did_you_mean

_PLAIN = (int, float, bool, str, NoneType, list, tuple, dict, Any, ...)
# Without an annotation, and with a default that is written as a whole number, but any will do.
_REAL = ("c", "decay", "kappa", "lam", "nsig", "scale")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "null"}


@dataclass(frozen=True)
class Argument:
    """One of a class's: the type of the plain values that it takes (None: it takes none), and its default."""

    kind: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the class has no default for it."""
        return self.default is inspect.Parameter.empty


@cache
def arguments_of(cls: type) -> Mapping[str, Argument]:
    """The arguments of a class by name, from annotations, or else from the defaults."""
    parameters = inspect.signature(cls).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return {one.name: Argument(_kind(one, vars(sys.modules[cls.__module__])), one.default) for one in named}


def _kind(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """The type of a parameter's plain values; ``names`` are those of the module with its annotations."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:
        if default is parameter.empty:
            return None
        if default is None:
            return Any
        return float if parameter.name in _REAL else _plain(type(default))
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, names)
        except (NameError, TypeError):  # names that are there for type checkers alone
            return None
    return _plain(annotation)


def _plain(annotation: Any) -> Any:
    """The part of a type whose values a study can hold; None where there is none."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kept = tuple(part for part in map(_plain, parts) if part is not None)
        return Union[kept] if set(kept) - {NoneType} else None  # noqa: UP007
    if origin in (list, tuple, dict):
        return annotation if all(_plain(part) is not None for part in parts) else None
    return annotation if origin is Literal or annotation in _PLAIN else None


def finite(value: Any) -> Any:
    """JSON has no infinity: the number is the word 'inf'. Raises ValueError for what is not a number."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("should hold no 'nan'")
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def filled(cls: type, given: Mapping[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """All arguments that are plain values, but for ``ours``: those given, else the class's defaults."""
    filled = {}
    for name, argument in arguments_of(cls).items():
        is_open = name not in ours and argument.kind is not None and not argument.is_required
        if name in given or is_open:
            filled[name] = finite(given.get(name, argument.default))
    return filled


def mistakes(cls: type, given: Mapping[str, Any], ours: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is wrong with the arguments ``given``: a name and a sentence each.

    ``ours`` are the arguments that a study cannot give, each with the reason.
    """
    known = arguments_of(cls)
    possible = [name for name, argument in known.items() if name not in ours and argument.kind is not None]
    found = []
    for name, value in given.items():
        if name not in known:
            found.append((name, f"unknown argument of {cls.__name__}{did_you_mean(name, possible)}"))
        elif name in ours:
            found.append((name, ours[name]))
        elif name not in possible:
            found.append((name, "takes an object of its library, which no value of a study can be"))
        elif not _fits(known[name].kind, value):
            found.append((name, f"should be {_words(known[name].kind)}, got {json.dumps(value)}"))
    missing = [name for name in possible if known[name].is_required and name not in given]
    return found + [(name, "required, but not given") for name in missing]


def unobtainable(cls: type, ours: Collection[str]) -> str | None:
    """An argument that the class needs and that no value of a study can be; None where there is none."""
    for name, argument in arguments_of(cls).items():
        if argument.is_required and argument.kind is None and name not in ours:
            return name
    return None


def typed(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the class wants them: tuples where JSON has lists."""
    known = arguments_of(cls)
    return {name: _read(known[name].kind, value) for name, value in given.items()}


def _read(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_json(json.dumps(value))


def _fits(kind: Any, value: Any) -> bool:
    try:
        _read(kind, value)
    except ValidationError:
        return False
    return True


def _words(kind: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    return _WORDS.get(kind) or str(kind).removeprefix("<class '").removesuffix("'>")
