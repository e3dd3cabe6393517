"""The files that studies are written in: the presets and users' own, each alone or over a preset."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from harness.errors import HarnessError, did_you_mean


def presets() -> dict[str, Path]:
    """Preset name -> its YAML file."""
    folder = Path(str(resources.files("harness.study"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def read(name_or_path: str) -> dict[str, Any]:
    """The settings of a preset or a YAML file, over those of the preset that it ``extends``, if it does.

    Raises HarnessError for a file that is not there, or is not a mapping.
    """
    data = _mapping(_file(name_or_path))
    if "extends" not in data:
        return data
    name = data.pop("extends")
    if not isinstance(name, str) or name == name_or_path or name not in presets():
        raise HarnessError(f"extends: expected a preset, got '{name}'{did_you_mean(str(name), presets())}")
    return _merged(read(name), data)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Group by group; what is no group is replaced."""
    merged = dict(below)
    for key, value in above.items():
        here = merged.get(key)
        merged[key] = _merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return merged


def _file(name_or_path: str) -> Path:
    known = presets()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        is_there = path.is_file()
    except OSError:  # a name too long for a path
        is_there = False
    if not is_there:
        suggestion = did_you_mean(name_or_path, known)
        raise HarnessError(f"no study '{name_or_path}': neither a preset nor a YAML file{suggestion}")
    return path


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: PyYAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and given.setdefault(key.value, key) is not key:
                first = given[key.value].start_mark.line + 1
                problem = f"'{key.value}' is given twice, first in line {first}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # PyYAML lets the ValueErrors of odd numbers and dates through.
        raise HarnessError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(data, dict):
        raise HarnessError(f"{path}: expected a mapping of settings, got {type(data).__name__}")
    return data
