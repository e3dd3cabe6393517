"""From what a study writes in ``use`` to the marked function that it names.

YAML can name any module there is, so a module must come from outside Python and the harness before it is
imported, and what it has under the name must carry the mark and be of that very package.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoints, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, did_you_mean
from harness.extensions.code import advice, located, remember
from harness.extensions.marks import Kind, Mark, is_count, mark_of
from harness.extensions.signature import settings_of
from harness.settings import Settings, validated

_WORD = r"[A-Za-z_]\w*"
_OBJECT = re.compile(rf"({_WORD}(?:\.{_WORD})*):({_WORD})", re.ASCII)
_ENTRY_POINT = re.compile(r"([\w.-]+)/([^\s/:]+)", re.ASCII)


@dataclass(frozen=True)
class Extension:
    """A marked function from outside: where it is from, its mark, and the model of its settings."""

    use: str
    module: str
    name: str
    mark: Mark
    function: Callable[..., Any]
    settings: type[Settings]

    @property
    def package(self) -> str:
        """The top-level package that its code is of."""
        return self.module.partition(".")[0]

    @property
    def algorithm(self) -> str:
        """'package.module.name', which is what the tables call it."""
        return f"{self.module}.{self.name}"

    @property
    def title(self) -> str:
        return self.mark.title or self.name

    def keywords(self, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What it is called with, by name: once for each epsilon of an attack, or combination of a grid.

        Raises Mistakes for settings that don't fit.
        """
        for single in validated(self.settings, settings).expanded():
            yield {name: getattr(single, name) for name in self.settings.model_fields}

    def number(self, what: str, keywords: Mapping[str, Any]) -> float:
        """What the mark states about it in numbers, for single settings by name.

        Raises HarnessError for a function of the settings that fails or returns something else.
        """
        stated = getattr(self.mark, what)
        try:
            value = stated(keywords) if callable(stated) else stated
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise HarnessError(f"{what} of {self.algorithm} can't be computed: {reason}") from error
        if not is_count(value):
            raise HarnessError(f"{what} of {self.algorithm} should be a number of at least 0, got {value!r}")
        return float(value)

    def call(self, *arguments: Any, **keywords: Any) -> Any:
        """What the function returns. One that wants to end the process has failed: RuntimeError."""
        try:
            return self.function(*arguments, **keywords)
        except SystemExit as error:
            raise RuntimeError(f"{self.algorithm} called exit({error})") from error


def resolve(use: str, kind: Kind) -> Extension:
    """The marked function that ``use`` names; its module is imported.

    ``package.module:name``, or ``package/name`` for the entry point ``name`` of an installed package in the
    group ``harness.networks``, ``harness.attacks`` or ``harness.defenses``: no other one is loaded.

    Raises HarnessError that says what was expected and what came.
    """
    module, name = place(use, kind)
    package = module.partition(".")[0]
    names = vars(_imported(module))
    if name not in names:
        marked = [other for other, value in names.items() if _is_of(value, kind)]
        raise HarnessError(f"'{module}' has no '{name}'{_suggestion(name, marked)}")
    function = names[name]
    mark = mark_of(function)
    if mark is None or not inspect.isfunction(function):
        is_function = inspect.isfunction(function)
        came = "a function without it" if is_function else f"of type '{type(function).__name__}'"
        raise HarnessError(
            f"expected a function with the harness's mark (@extensions.{kind}), and '{use}' is {came}"
        )
    if mark.kind != kind:
        raise HarnessError(f"'{use}' is marked as {_a(mark.kind)}, expected {_a(kind)} (@extensions.{kind})")
    if str(function.__module__).partition(".")[0] != package:
        raise HarnessError(
            f"'{use}' is defined in '{function.__module__}', not in '{package}': name it where it is from"
        )
    return Extension(use, module, name, mark, function, settings_of(function))


def place(use: str, kind: Kind) -> tuple[str, str]:
    """Module and name that ``use`` leads to, without an import.

    Raises HarnessError for what names nothing, and for modules of Python and of the harness.
    """
    point = _ENTRY_POINT.fullmatch(use)
    value = _entry_point(point[1], point[2], kind) if point else use
    match = _OBJECT.fullmatch(value)
    if not match:
        said = f"'{use}'" if value == use else f"'{use}', which leads to '{value}'"
        raise HarnessError(
            f"expected 'package.module:name' with one name after the colon, or 'package/name', got {said}"
        )
    module, name = match.groups()
    package = module.partition(".")[0]
    if package == "harness":
        raise HarnessError(f"'{use}' is the harness's own: name what is built in by its word, without 'use'")
    if package in sys.stdlib_module_names or package == "__main__":
        whose = "the running script" if package == "__main__" else "a part of Python"
        raise HarnessError(
            f"expected a function with the harness's mark (@extensions.{kind}) in a package of its own, "
            f"and '{package}' in '{use}' is {whose}"
        )
    return module, name


def _entry_point(package: str, name: str, kind: Kind) -> str:
    """'module:name' of an installed package's entry point."""
    group = f"harness.{kind}s"
    try:
        declared: EntryPoints = distribution(package).entry_points.select(group=group)
    except PackageNotFoundError as error:
        offering = {point.dist.name for point in entry_points(group=group) if point.dist}
        raise HarnessError(f"no installed package '{package}'{_suggestion(package, offering)}") from error
    values = [point.value for point in declared if point.name == name]
    if not values:
        known = [point.name for point in declared]
        missing = f"'{package}' has no '{name}' among its entry points '{group}'"
        raise HarnessError(f"{missing}{_suggestion(name, known)}")
    if len(values) > 1:
        raise HarnessError(f"'{package}' has several '{name}' among its entry points '{group}': {values}")
    return values[0].replace(" ", "")


def _imported(module: str) -> Any:
    """The module; HarnessError where it is not there, or where importing it fails."""
    package = module.partition(".")[0]
    if package not in sys.modules:
        remember(package)
    if module not in sys.modules:
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing == package:
            raise HarnessError(f"there is no package '{package}' here{advice(package)}") from error
        if missing and f"{module}.".startswith(f"{missing}."):
            raise HarnessError(f"there is no module '{missing}'{_siblings(missing)}") from error
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[-1]}".removesuffix(": ")
        raise HarnessError(f"'{module}' can't be imported: {reason} ({_where(error, package)})") from error


def _siblings(missing: str) -> str:
    """The suggestion of a module beside the missing one."""
    parent, _, name = missing.rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", [])
    return _suggestion(name, [module.name for module in pkgutil.iter_modules(folders)])


def _where(error: BaseException, package: str) -> str:
    """File and line of an error: the last line of the package itself on the way to it, if there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
    folders: tuple[Path, ...] = ()
    with suppress(HarnessError):
        folders = located(package)
    for frame in reversed(frames):
        path = Path(frame.filename).resolve()
        if any(path == folder or folder in path.parents for folder in folders):
            return f"{frame.filename}:{frame.lineno}"
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def _is_of(value: Any, kind: Kind) -> bool:
    mark = mark_of(value)
    return mark is not None and mark.kind == kind


def _suggestion(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return did_you_mean(name, known) if known else ""


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind == "attack" else f"a {kind}"
