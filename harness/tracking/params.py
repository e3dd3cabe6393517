"""How a network was made, as MLflow's parameters and tags.

MLflow draws an axis for each parameter. So a parameter is what tells networks apart; what is the same of all,
or follows from the method, is a tag.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

# MLflow draws a missing number at a place of its own, just above the largest; a word makes a place for it.
NONE = "none"
_PREFIXES = ("train/", "model/")

Meta = Mapping[str, Any]  # of a training's cell


def apart(metas: Iterable[Meta]) -> frozenset[str]:
    """What differs, but for the name: of the settings of trainings, among the networks of one method."""
    told = [_all(meta) for meta in metas]
    names = {name for values in told for name in values}
    return frozenset(name for name in names - {"name"} if _differs(name, told))


def _differs(name: str, told: list[dict[str, str]]) -> bool:
    if not name.startswith(_PREFIXES):
        return len({values.get(name) for values in told}) > 1
    by_method: dict[str, set[str | None]] = {}
    for values in told:
        by_method.setdefault(values["method"], set()).add(values.get(name))
    return any(len(values) > 1 for values in by_method.values())


def params(meta: Meta, differing: frozenset[str]) -> dict[str, str]:
    """What tells the network apart, the same names for all."""
    values = _all(meta)
    return {name: values.get(name, NONE) for name in sorted(differing)}


def tags(meta: Meta, differing: frozenset[str]) -> dict[str, str]:
    """The rest."""
    return {name: value for name, value in _all(meta).items() if name not in differing}


def _all(meta: Meta) -> dict[str, str]:
    """What the network is and how it was trained; what does not apply to it is left out."""
    columns = dict(meta["columns"])
    settings = json.loads(columns.pop("settings"))
    values = {"method": meta["partition"]["method"], **columns}
    prefix = "model/" if values["method"] == "finished" else "train/"
    values |= {f"{prefix}{name}": value for name, value in settings.items() if name not in columns}
    architecture = meta["spec"]["architecture"]
    values["architecture"] = architecture.get("use") or architecture["architecture"]
    return {name: plain(value) for name, value in values.items() if value is not None}


def plain(value: Any) -> str:
    """1.0 -> '1': MLflow plots parameters that read as numbers on a numeric axis."""
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
