"""The settings of a function from outside: a strict model of its keyword-only, annotated parameters."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from inspect import Parameter
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, create_model

from harness.errors import HarnessError
from harness.extensions.marks import AttackMark, Mark, mark_of, mistakes
from harness.settings import GRID, Epsilon, Mistakes, Radius, Settings, validated

EPSILON = "epsilon"  # the setting that is a radius


class Keywords(Settings):
    """What all such models share. A record is JSON, which has no infinities."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())


@cache
def settings_of(function: Callable[..., Any]) -> type[Settings]:
    """The settings of a marked function, by name as in its signature, with its defaults.

    An attack's ``epsilon`` may be a list: it is called for each of its values.

    Raises HarnessError that lists all that is wrong with the signature or the mark.
    """
    mark = mark_of(function)
    assert mark is not None, "asked of marked functions alone"
    wrong = [*mistakes(mark), *_wrong_parameters(function, mark)]
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            try:
                fields[parameter.name] = _field(function, mark, parameter)
            except ValueError as error:
                wrong.append(f"setting '{parameter.name}' {error}")
    if wrong:
        raise HarnessError(f"{function.__module__}.{function.__name__}: {'; '.join(wrong)}")
    return create_model(f"{function.__name__} settings", __base__=Keywords, **fields)


def _wrong_parameters(function: Callable[..., Any], mark: Mark) -> Iterator[str]:
    """What is wrong with the parameters that are no settings."""
    positional = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            star = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            yield f"settings are keyword-only parameters with a type each, got {star}{parameter.name}"
        elif parameter.kind is not Parameter.KEYWORD_ONLY:
            positional.append(parameter.name)
    if tuple(positional) not in (mark.parameters, (*mark.parameters, *mark.optional)):
        expected, came = ", ".join(mark.parameters), ", ".join(positional)
        yield f"expected the parameters ({expected}, *, settings), got ({came}, ...)"


def _field(function: Callable[..., Any], mark: Mark, parameter: Parameter) -> tuple[Any, Any]:
    """Annotation and default of a setting; ValueError that says what is wrong with it."""
    if parameter.annotation is Parameter.empty:
        raise ValueError("needs a type")
    if hasattr(Keywords, parameter.name) or parameter.name.startswith("_"):
        raise ValueError("can't have this name, which the model of the settings has a use for")
    annotation = _hint(function, parameter)
    if parameter.name == EPSILON:
        annotation = _radius(annotation, mark)
    try:
        field: dict[str, Any] = {parameter.name: (annotation, ...)}
        alone = create_model("setting", __base__=Keywords, **field)
    except Exception as error:  # pydantic has several for types that it can't make out
        raise ValueError(f"can't be written in a study: its type is {parameter.annotation}") from error
    if alone.grid() and mark.kind != "defense" and parameter.name != EPSILON:
        raise ValueError("can't be a grid: only those of a defense, and epsilon, may be lists")
    return annotation, _default(alone, parameter)


def _hint(function: Callable[..., Any], parameter: Parameter) -> Any:
    """The parameter's type, evaluated where it is a string, whatever the other annotations are."""
    alone = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    names = inspect.unwrap(function).__globals__
    try:
        return get_type_hints(alone, globalns=names, include_extras=True)[parameter.name]
    except Exception as error:  # whatever evaluating a user's text raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"has a type that can't be evaluated: {parameter.annotation} ({reason})") from error


def _radius(annotation: Any, mark: Mark) -> Any:
    """``epsilon`` in the words of studies: '8/255' is a number, and a list is one attack or network for each.

    A defense's is left as it is unless it is just a ``float``.
    """
    if not isinstance(mark, AttackMark):
        return Annotated[Epsilon, *GRID] if annotation is float else annotation
    of, *limits = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if of is not float:
        raise ValueError(f"of an attack should be a float, got {annotation}")
    limits = [limit for limit in limits if limit not in GRID]
    most = [Field(le=1)] if mark.norm == "linf" else []
    return Annotated[Radius, *most, *limits, *GRID]


def _default(alone: type[Settings], parameter: Parameter) -> Any:
    """The default in the form that a study's value takes; ``...`` where there is none."""
    if parameter.default is Parameter.empty:
        return ...
    try:
        return getattr(validated(alone, {parameter.name: parameter.default}), parameter.name)
    except Mistakes as error:
        raise ValueError(f"has a wrong default: {error.below[0][1]}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"has a default that can't be written in a study: {parameter.default!r}") from error
