"""The files of packages from outside, found as an import would find them, but without one."""

import hashlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from harness.errors import HarnessError

_imported: dict[str, str] = {}  # package -> digest when it was imported
_folders: list[Path] = []  # those that --code named, in the order in which they are searched


class Moved(HarnessError):
    """Code changed between planning and keeping what was made with it."""


def code_folder(paths: Iterable[str | Path]) -> None:
    """Search these folders for packages before all others, in this order; each is put there once.

    Raises HarnessError for a path that is no folder.
    """
    folders: list[Path] = []
    for path in paths:
        folder = Path(path).resolve()
        if not folder.is_dir():
            raise HarnessError(f"--code expects a folder that holds packages, got '{path}'")
        if folder not in (*folders, *_folders):
            folders.append(folder)
    _folders[:0] = folders
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()


def shipped(packages: Iterable[str]) -> dict[str, Path]:
    """Of these top-level packages those that lie in a folder of ``code_folder``: their folders or .py files.

    Other machines have the rest installed, or do not have it.
    """
    paths = {}
    for package in packages:
        for path in located(package):
            if path.parent in _folders:
                paths[package] = path
    return paths


def located(package: str) -> tuple[Path, ...]:
    """The folders, or the one file, of a top-level package; several only where it has no ``__init__.py``.

    Whether one of that name was imported before does not matter. Raises HarnessError where there is none.
    """
    spec = _spec(package)
    if spec is not None and spec.submodule_search_locations is not None:
        paths = [Path(folder).resolve() for folder in spec.submodule_search_locations]
    elif spec is not None and spec.has_location and spec.origin:
        paths = [Path(spec.origin).resolve()]
    else:
        paths = []
    if not paths or not all(path.exists() for path in paths):
        raise HarnessError(f"there is no package '{package}' in a folder here{advice(package)}")
    return tuple(paths)


def advice(package: str) -> str:
    """What to do where a package is not there."""
    return f": install it, or name the folder that holds '{package}' with --code DIR"


def _spec(package: str) -> ModuleSpec | None:
    # Not importlib.util.find_spec: that one answers with what was imported, if anything was.
    importlib.invalidate_caches()
    for finder in sys.meta_path:
        spec = finder.find_spec(package, None)
        if spec is not None:
            return spec
    return None


def digest(package: str) -> str:
    """16 hex digits over the paths within a top-level package and the bytes of its .py files.

    Raises HarnessError where there is no such package, or a file of it can't be read.
    """
    files: dict[str, Path] = {}
    for path in located(package):
        if path.is_file():
            files[path.name] = path
        else:
            files |= {file.relative_to(path).as_posix(): file for file in _sources(path)}
    text = hashlib.sha256()
    for name, file in sorted(files.items()):
        try:
            content = hashlib.sha256(file.read_bytes()).digest()
        except OSError as error:
            raise HarnessError(f"the code of '{package}': {file} can't be read: {error.strerror}") from error
        text.update(name.encode() + b"\0" + content)
    return text.hexdigest()[:16]


def _sources(folder: Path) -> Iterator[Path]:
    """All .py files below a folder, in linked folders, too."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place, name) for name in names if name.endswith(".py"))


def remember(package: str) -> None:
    """Keep the digest of a package that is about to be imported."""
    _imported.pop(package, None)
    with suppress(HarnessError):
        _imported[package] = digest(package)


def must_be_as_imported(packages: Iterable[str]) -> None:
    """Raises Moved where a package is no longer what this process imported."""
    must_be({package: _imported[package] for package in packages if package in _imported})


def must_be(code: Mapping[str, str]) -> None:
    """See that packages are what they were: top-level package -> its ``digest`` then.

    Raises Moved that names each one that is not.
    """
    moved = []
    for package, before in code.items():
        now = "not to be found"
        with suppress(HarnessError):
            now = digest(package)
        if now != before:
            moved.append(f"'{package}' was {before} when the study was planned and is {now}")
    if moved:
        raise Moved(f"code changed while the study ran: {'; '.join(moved)}; run it again")
