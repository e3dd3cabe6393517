"""Code from outside: a name -> a thing."""

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from harness.errors import HarnessError


class Moved(HarnessError):
    """Code from outside is no longer what it was."""


def digest(package: str) -> str:
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise HarnessError(f"no package '{package}'")
    root = Path(spec.origin)
    files = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    found = hashlib.sha256()
    for file in files:
        found.update(file.relative_to(root.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def must_be(code: Mapping[str, str]) -> None:
    for package, expected in code.items():
        if digest(package) != expected:
            raise Moved(f"'{package}' changed")
