"""How a study is read: from a file's settings with changes, and a report of all its mistakes at once.

Each mistake is a line: its dotted path, what was expected and what came.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from harness.attacks import ATTACKS
from harness.defenses import DEFENSES
from harness.errors import HarnessError, did_you_mean
from harness.extensions import FOREIGN
from harness.networks import NETWORKS
from harness.settings import Mistakes, Settings, sentence
from harness.study.files import read
from harness.study.spec import Study

_SETTINGS_LIMIT = 1_000_000  # characters of a study as JSON; the presets have about 2,000
_SHOWN_MISTAKES = 20
_NAME = "[key]"  # pydantic's last part of a place where a name itself is wrong
_ARCHITECTURE = "vgg16"  # the paper's (IV), where a study names none


@dataclass(frozen=True)
class _Kind:
    """Settings whose class is picked by a word: its field, what messages call it, the classes by word.

    ``is_named``: there are several, each below a name.
    """

    field: str
    word: str
    classes: Mapping[str, type[Settings]]
    is_named: bool = True


_ATTACK = _Kind("method", "attack method", ATTACKS)
_KINDS = {
    ("attacks",): _ATTACK,
    ("white_box", "own"): _ATTACK,
    ("defenses",): _Kind("method", "defense method", DEFENSES),
    ("network",): _Kind("architecture", "architecture", NETWORKS, is_named=False),
    ("models",): _Kind("architecture", "architecture", NETWORKS),
}


def load(name_or_path: str, overrides: tuple[str, ...] = ()) -> Study:
    """The study of a preset's name or a YAML file, with ``a.b=value`` overrides applied in order.

    Raises HarnessError that lists every mistake: unknown keys with a suggestion, wrong values with
    what was expected and what came.
    """
    data = read(name_or_path)
    for override in overrides:
        _override(data, override)
    return build(data)


def build(data: dict[str, Any]) -> Study:
    """A study from plain data; an attack or defense without ``method`` is the method that its key names.

    What has ``use`` comes from outside the package. Raises HarnessError with all mistakes.
    """
    filled = dict(data)
    for kind in ("attacks", "defenses"):
        if kind in filled:
            filled[kind] = _with_words("method", filled[kind])
    white_box = filled.get("white_box")
    if isinstance(white_box, dict) and "own" in white_box:
        filled["white_box"] = {**white_box, "own": _with_words("method", white_box["own"])}
    if "models" in filled:
        filled["models"] = _with_words("architecture", filled["models"], _ARCHITECTURE)
    network = filled.setdefault("network", {})
    if isinstance(network, dict):
        filled["network"] = _with_word("architecture", network, _ARCHITECTURE)
    try:
        # Strict in JSON's sense: lists are tuples there, but "3" is no number and 1 no boolean.
        return Study.model_validate_json(_as_json(filled))
    except ValidationError as error:
        raise HarnessError(explain(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise HarnessError(f"a study is made of plain values: {error}") from error


def _with_words(field: str, entries: Any, default: str | None = None) -> Any:
    """Entries with the word that picks the class of each, its own name unless there is a default."""
    if not isinstance(entries, dict):
        return entries
    filled = dict(entries)
    for name, entry in entries.items():
        if isinstance(entry, dict | None):
            filled[name] = _with_word(field, entry or {}, default or name)
    return filled


def _with_word(field: str, entry: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """An entry with the word that picks its class, where it names none: FOREIGN beside ``use``."""
    return {field: FOREIGN if "use" in entry else default, **entry}


def _as_json(data: dict[str, Any]) -> str:
    """Plain data as JSON, within a limit: a few lines of YAML whose aliases nest can mean gigabytes."""
    parts, length = [], 0
    for part in json.JSONEncoder().iterencode(data):
        parts.append(part)
        length += len(part)
        if length > _SETTINGS_LIMIT:
            raise ValueError(f"expected at most {_SETTINGS_LIMIT:,} characters of settings")
    return "".join(parts)


# --- changes of single settings ---------------------------------------------------------------------


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=value`` in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise HarnessError(f"--set expects a.b=value, got '{override}'")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HarnessError(f"--set {path}: '{text}' is not a YAML value: {error}") from error
    here: Any = data
    for depth in range(len(keys) - 1):
        here = _step_into(here, keys, depth, path)
    here[_key(here, keys, len(keys) - 1, path)] = value


def _step_into(here: Any, keys: list[str], depth: int, path: str) -> Any:
    """The group of settings one key down, made where there is none."""
    key = _key(here, keys, depth, path)
    if isinstance(here, dict) and here.get(key) is None:
        here[key] = {}
    return here[key]


def _key(here: Any, keys: list[str], depth: int, path: str) -> str | int:
    """The key into a group, or the position in a list; HarnessError where it leads nowhere."""
    key = keys[depth]
    if isinstance(here, dict):
        return key
    if not isinstance(here, list):
        above = ".".join(keys[:depth])
        raise HarnessError(f"--set {path}: '{above}' is a value, not a group of settings")
    if not key.isdigit() or int(key) >= len(here):
        raise HarnessError(f"--set {path}: '{key}' must be a position from 0 to {len(here) - 1}")
    return int(key)


# --- mistakes -------------------------------------------------------------------------------------------


def explain(error: ValidationError) -> str:
    """All mistakes of a study, a line each: dotted path, what was expected, what came."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    places = [item["loc"] for item in items]
    lines: list[str] = []
    for item in items:
        is_only_short = item["type"] == "too_short" and _has_mistakes_below(item["loc"], places)
        goes_with_use = _is_unknown(item, "settings") and (*item["loc"][:-1], "use") in places
        if not is_only_short and not goes_with_use:
            lines += _lines(item)
    head = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    shown = lines[:_SHOWN_MISTAKES]
    if len(lines) > _SHOWN_MISTAKES:
        shown.append(f"... and {len(lines) - _SHOWN_MISTAKES} more")
    return f"the study has {head}:\n" + "\n".join(f"  {line}" for line in shown)


def _has_mistakes_below(place: tuple[Any, ...], places: Iterable[tuple[Any, ...]]) -> bool:
    """Whether a list is short only of entries that are reported themselves."""
    return any(other[: len(place)] == place and len(other) > len(place) for other in places)


def _is_unknown(item: Mapping[str, Any], name: str) -> bool:
    """Whether a mistake is that an entry whose class was picked by a word has no setting of this name."""
    place = item["loc"]
    depth = _tag_depth(place)
    return item["type"] == "extra_forbidden" and depth is not None and place[depth + 1 :] == (name,)


def _lines(item: dict[str, Any]) -> list[str]:
    """One of pydantic's errors in our words: a line, or one for each of several ``Mistakes``."""
    place = _without_tag(item["loc"])
    path = ".".join(map(str, place))
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Mistakes):
        return [f"{path}.{below}: {said}".replace(".:", ":") for below, said in cause.below]
    said = _sentence(item, _owner(item["loc"]))
    return [f"{path}: {said}" if path else said]


def _sentence(item: dict[str, Any], owner: type[BaseModel]) -> str:
    """What is wrong with one setting of its ``owner``."""
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind = _kind(item["loc"])
        assert kind is not None, "a class is picked where there is a kind"
        tag = str(item["ctx"].get("tag", item["input"]))
        return f"unknown {kind.word} '{tag}'{did_you_mean(tag, set(kind.classes) - {FOREIGN})}"
    if _is_unknown(item, "use"):
        kind = _kind(item["loc"])
        assert kind is not None, "an entry has a kind"
        return f"stands in place of '{kind.field}', which is given as well: leave one of them out"
    return sentence(item, owner)


def _without_tag(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """A place as the user wrote it: pydantic adds the word by which it chose a class, or ``_NAME``."""
    if place and place[-1] == _NAME:
        return place[:-1]
    depth = _tag_depth(place)
    return place if depth is None else (*place[:depth], *place[depth + 1 :])


def _tag_depth(place: tuple[Any, ...]) -> int | None:
    """Where in the place that word stands; None where no class was chosen."""
    for start, kind in _KINDS.items():
        if place[: len(start)] == start:
            depth = len(start) + kind.is_named
            return depth if len(place) > depth and place[depth] != _NAME else None
    return None


def _kind(place: tuple[Any, ...]) -> _Kind | None:
    """What the settings at a place are a kind of; None where no class is picked."""
    return next((kind for start, kind in _KINDS.items() if place[: len(start)] == start), None)


def _owner(place: tuple[Any, ...]) -> type[BaseModel]:
    """The class of settings that the last part of a place belongs to."""
    owner: type[BaseModel] = Study
    depth, kind = _tag_depth(place), _kind(place)
    if depth is not None and kind is not None:
        owner, place = kind.classes[place[depth]], place[depth + 1 :]
    for part in place[:-1]:
        field = owner.model_fields.get(str(part))
        # An optional group of settings is one of the kinds that its annotation names.
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        owner = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), owner
        )
    return owner
