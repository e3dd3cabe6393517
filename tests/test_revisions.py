"""Code in the keys: a method whose code changed has a new revision, or a written reason why no number
changes.

``revisions.yaml`` keeps, for every method, the digests of its code. When this test fails, either raise the
method's ``revision`` (its cells are then made anew) or leave it, and write down either way:

    python tests/test_revisions.py                            a method of a raised revision, or a new one
    python tests/test_revisions.py "no effect: why that is"    the others
"""

import ast
import hashlib
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness
from harness.attacks import ATTACKS
from harness.defenses import DEFENSES
from harness.networks import NETWORKS

KINDS = {"attack": ATTACKS, "defense": DEFENSES, "network": NETWORKS}
METHODS = [(kind, name) for kind, methods in KINDS.items() for name in methods]
WRITTEN = Path(__file__).with_name("revisions.yaml")
ROOT = Path(harness.__file__).parent
COMPUTING = ("attacks", "defenses", "networks", "seeds.py")  # what a method's numbers follow from


def digest(method: type) -> str:
    """Of the code of a method's module and of what it imports from where numbers are made, words left out."""
    start = Path(str(sys.modules[method.__module__].__file__))
    text = hashlib.sha256()
    for path in sorted({start, *imported(start, set())}):
        text.update(path.relative_to(ROOT).as_posix().encode() + code_of(path.read_text()).encode())
    return text.hexdigest()[:16]


def code_of(source: str) -> str:
    """A module without docstrings, comments and blanks: the same text for any version of Python."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if is_docstring(node):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    code = "\n".join(lines) + "\n"
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "".join("".join(line.split()) for line in lines)


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def imported(path: Path, seen: set[Path]) -> Iterator[Path]:
    """The modules that a module imports, and theirs, but for the wings' faces: these only list."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("harness"):
            continue
        for name in [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]:
            found = ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
            is_ours = found.is_file() and found.relative_to(ROOT).parts[0] in COMPUTING
            if is_ours and found not in seen:
                seen.add(found)
                yield found
                yield from imported(found, seen)


def written() -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, list[dict[str, Any]]] = yaml.safe_load(WRITTEN.read_text())
    return loaded


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_changed_code_is_a_new_revision_or_without_effect(kind, name):
    method, entries = KINDS[kind][name], written().get(f"{kind} {name}", [])
    last = entries[-1] if entries else {}
    assert (last.get("revision"), last.get("digest")) == (method.revision, digest(method)), (
        f"the code of the {kind} '{name}' changed: raise its revision, or say why no number changes "
        f"(see {Path(__file__).name})"
    )
    for before, after in zip(entries, entries[1:], strict=False):
        assert after["revision"] > before["revision"] or after.get("no_effect"), f"{kind} {name}: {after}"


def test_nothing_is_written_of_methods_that_are_not_there():
    assert set(written()) == {f"{kind} {name}" for kind, name in METHODS}


def test_the_digest_sees_code_and_no_words(tmp_path, monkeypatch):
    """A changed constant of a room that a method uses changes its digest; a changed docstring or comment does
    not.
    """
    method = ATTACKS["deepfool"]
    before = digest(method)
    for wing in ("attacks", "networks", "defenses"):
        (tmp_path / wing).mkdir()
        for path in (ROOT / wing).glob("*.py"):
            (tmp_path / wing / path.name).write_text(path.read_text())
    (tmp_path / "seeds.py").write_text((ROOT / "seeds.py").read_text())
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[method.__module__], "__file__", str(tmp_path / "attacks" / "deepfool.py"))
    assert digest(method) == before
    batch = tmp_path / "attacks" / "batch.py"
    code = batch.read_text()
    batch.write_text(code.replace('"""', '"""In other words: ', 1) + "# a comment\n")
    assert digest(method) == before
    batch.write_text(code + "\nANOTHER = 1\n")
    assert digest(method) != before


def write(no_effect: str) -> None:
    """Add to the file what the code is now."""
    entries = written() if WRITTEN.exists() else {}
    for kind, name in METHODS:
        method = KINDS[kind][name]
        now = {"revision": method.revision, "digest": digest(method)}
        history = entries.setdefault(f"{kind} {name}", [])
        if history and (history[-1]["revision"], history[-1]["digest"]) == tuple(now.values()):
            continue
        if history and method.revision <= history[-1]["revision"]:
            if not no_effect:
                sys.exit(f"{kind} {name}: raise its revision, or say why no number changes")
            now["no_effect"] = no_effect
        history.append(now)
    known = {f"{kind} {name}" for kind, name in METHODS}
    kept = {name: history for name, history in sorted(entries.items()) if name in known}
    WRITTEN.write_text(yaml.safe_dump(kept, sort_keys=False, width=100, default_flow_style=None))


if __name__ == "__main__":
    write(sys.argv[1].removeprefix("no effect: ") if len(sys.argv) > 1 else "")
