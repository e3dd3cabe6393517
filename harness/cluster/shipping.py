"""Packages from outside on the machines of a cluster: how they get there, and what a machine has of them."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import extensions
from harness.errors import HarnessError
from harness.extensions.code import located

_NAME = ".harness-package"  # a file that says what package it lies in
# Ray leaves out what a .gitignore names, which may well be code; a .rayignore is meant for it.
_STAYS = shutil.ignore_patterns("__pycache__", ".git", ".gitignore", _NAME)


@dataclass(frozen=True)
class Package:
    """A package as a process finds it: the digest of its code, and where that lies."""

    digest: str
    place: str


def packages(names: Iterable[str]) -> dict[str, Package]:
    """Those of the named packages that this process finds."""
    there = {}
    for name in names:
        with suppress(HarnessError):
            there[name] = Package(extensions.digest(name), str(located(name)[0]))
    return there


def problems(wanted: Mapping[str, Package], there: Mapping[str, Package]) -> list[str]:
    """Why a machine's packages are not those that are wanted, a line each."""
    lines = []
    for name, package in wanted.items():
        if name not in there:
            lines.append(
                f"its workers find no package '{name}': install it there, or give its folder with --code "
                "before Ray is started"
            )
        elif there[name].digest != package.digest:
            here, place = there[name].digest, there[name].place
            lines.append(
                f"the code of '{name}' is {here} ({place}), but {package.digest} where the study was started"
            )
    return lines


@contextmanager
def on_path(names: Iterable[str]) -> Iterator[None]:
    """Processes of this machine that are started inside find the packages of --code, where they lie."""
    before = os.environ.get("PYTHONPATH")
    folders = [str(place.parent) for place in extensions.shipped(names).values()]
    path = os.pathsep.join([*dict.fromkeys(folders), before or ""]).strip(os.pathsep)
    if path:
        os.environ["PYTHONPATH"] = path
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def runtime_env(names: Iterable[str]) -> Iterator[dict[str, Any] | None]:
    """Ray's runtime environment that sends the packages which came with --code, as they are now.

    To be used inside. None where there are none to send: the others are installed, or missing.
    """
    places = extensions.shipped(names)
    if not places:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="harness-code-") as folder:
        yield {"py_modules": [str(_parcel(place, Path(folder))) for place in places.values()]}


def _parcel(place: Path, folder: Path) -> Path:
    """A package as Ray is to send it: links to its files, and one more file with its name.

    Ray tells what it has sent by a hash of what lies below a package's folder, so that of two packages with
    equal files, as one that was renamed, it would send but the first.
    """
    if place.is_file():
        return place
    parcel: Path = shutil.copytree(place, folder / place.name, ignore=_STAYS, copy_function=os.symlink)
    (parcel / _NAME).write_text(place.name)
    return parcel
