"""Why two cells that measure the same thing have other values, as far as what is kept beside them tells."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Meta = Mapping[str, Any]

_KEYS = {"network", "settings", "name"}  # columns that say nothing of their own: the spec has the settings
UNKNOWN = "nothing that is recorded differs"


@dataclass(frozen=True)
class Cause:
    """What differs, in words; ``kind``: settings, code, data, versions, device or unknown.

    ``is_own``: of the cell itself, not of one that it was made from.
    """

    kind: str
    words: str
    is_own: bool = True


def settings_that_differ(a: Meta, b: Meta) -> list[Cause]:
    """What two cells were asked for otherwise, a cause for each dotted path."""
    ours, theirs = _flat(_asked(a)), _flat(_asked(b))
    paths = [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    return [Cause(_kind(path), _change(path, ours, theirs)) for path in sorted(paths)]


def versions_that_differ(a: Meta, b: Meta) -> list[Cause]:
    """Packages, Python and drivers: 'torch 2.7.0 -> 2.8.0'."""
    ours, theirs = (_versions(meta) for meta in (a, b))
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return [Cause("versions", _change(name, ours, theirs, " ")) for name in names]


def devices_that_differ(a: Meta, b: Meta) -> list[Cause]:
    """What the two were made on."""
    ours, theirs = (_device(meta) for meta in (a, b))
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return [Cause("device", _change(name, ours, theirs)) for name in names]


def _asked(meta: Meta) -> dict[str, Any]:
    columns = {name: value for name, value in meta["columns"].items() if name not in _KEYS}
    return {**columns, **meta["spec"]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value."""
    flat = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def _kind(path: str) -> str:
    if path.startswith("code.") or path.endswith("revision"):
        return "code"
    return "data" if path.endswith("fingerprint") else "settings"


def _change(path: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], mark: str = ": ") -> str:
    a, b = (_text(values[path]) if path in values else "none" for values in (ours, theirs))
    return f"{path}{mark}{a} -> {b}"


def _text(value: Any) -> str:
    """Of a digest the beginning."""
    text = str(value)
    is_digest = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return text[:8] if is_digest else text


def _versions(meta: Meta) -> dict[str, Any]:
    facts = meta.get("facts", {})
    others = {name: facts[name] for name in ("python", "driver", "cuda", "cudnn") if name in facts}
    return {**facts.get("versions", {}), **others}


def _device(meta: Meta) -> dict[str, Any]:
    facts = meta.get("facts", {})
    return {name: facts[name] for name in ("machine", "cores", "gpus") if name in facts}


def likely(pair: tuple[Meta, Meta], needs: Iterable[tuple[Cause, ...]]) -> tuple[Cause, ...]:
    """The likeliest causes of one kind of a pair of cells; ``needs``: of those that it was made from.

    What was asked for explains more than what it was made with, that more than where; of each the cell's own
    before those of the cells that it was made from.
    """
    inherited = [Cause(each.kind, each.words, is_own=False) for causes in needs for each in causes]
    asked = ("settings", "code", "data")
    own = settings_that_differ(*pair), versions_that_differ(*pair), devices_that_differ(*pair)
    for mine, kinds in zip(own, (asked, ("versions",), ("device",)), strict=True):
        found = mine or [each for each in inherited if each.kind in kinds]
        if found:
            return tuple(dict.fromkeys(found))
    return (Cause("unknown", UNKNOWN),)
