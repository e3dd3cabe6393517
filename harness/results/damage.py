"""Files that are gone or not what was written: what is said of them, where they lie, what mends them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError
from harness.results.storage import Folder


class Damaged(HarnessError):
    """A file is gone, or not what was written; a storage that does not answer is another matter."""


def damaged(folder: Folder, path: Path | str, why: str) -> Damaged:
    """The error for a file whose content is wrong."""
    reason = why.rstrip(".")
    return Damaged(
        f"'{folder.locate(path)}' is damaged: {reason}. Remove it (`harness verify --repair`) and run again"
    )


@contextmanager
def must_exist(folder: Folder, path: Path | str) -> Iterator[None]:
    """A file that is not there is damage."""
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"'{folder.locate(path)}' is missing: run its study again") from error


@contextmanager
def must_parse(folder: Folder, path: Path | str) -> Iterator[None]:
    """What cannot be parsed is damage."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:  # from pyarrow and json, which read nonsense in many ways
        raise damaged(folder, path, str(error)) from error


def read(folder: Folder, path: Path | str) -> bytes:
    """A file's bytes; raises Damaged where it is not there."""
    with must_exist(folder, path):
        return folder.read(path)
