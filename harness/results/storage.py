"""Where files lie: a local folder, a shared mount or an object store, behind a few operations.

On each a file appears whole or not at all: locally because a finished one is renamed, in an object store
because an upload is no object before it is completed.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from harness.errors import HarnessError
from harness.results import locking, object_store

Payload: TypeAlias = bytes | pa.Buffer | Iterator[bytes]  # whole, or in parts
CONNECTIONS = 16  # requests at once, where each waits for an object store


@dataclass(frozen=True)
class Info:
    """A file that is there. Object stores know the time of writing in whole seconds."""

    size: int  # bytes
    modified_ns: int  # since the epoch


@dataclass(frozen=True)
class Folder:
    """A folder whose files are named by their paths below it.

    ``place`` is a local path or the URI of a prefix in an object store, in pyarrow's syntax. Raises
    FileNotFoundError for a file that is not there, HarnessError for whatever else the storage refuses.
    """

    place: Path | str

    @classmethod
    def at(cls, place: Path | str) -> "Folder":
        """The folder that a user names; HarnessError for a URI that can't be one."""
        parts = re.fullmatch(r"(?:([A-Za-z][A-Za-z0-9+.-]+):/+)?(.*)", str(place), re.DOTALL)
        assert parts is not None, "the pattern fits any text"
        scheme, rest = parts.groups()
        if scheme is None:  # one letter and a colon is a drive
            return cls(place if isinstance(place, Path) else Path(place).expanduser().absolute())
        if scheme == "file":
            return cls(Path("/" + unquote(rest)))
        if scheme != "s3" or isinstance(place, Path):
            expected = "expected a folder, file:///FOLDER or s3://BUCKET/PREFIX"
            raise HarnessError(f"the results '{place}': {expected}, got '{scheme}:'")
        object_store.options_of(place)
        return cls(place)

    @property
    def local(self) -> Path | None:
        """The local path, None in an object store."""
        return self.place if isinstance(self.place, Path) else None

    def __str__(self) -> str:
        return str(self.place).split("?")[0].rstrip("/") if self.local is None else str(self.local)

    def locate(self, path: Path | str) -> str:
        """The whole address of a file, for people."""
        return f"{self}/{path}" if self.local is None else str(self.local / path)

    def check(self) -> None:
        """HarnessError at once where an object store does not answer, has no such bucket or refuses us."""
        if isinstance(self.place, str):
            bucket = object_store.key_of(self.place).split("/")[0]
            with self._refusals("used"):
                found = object_store.file_system(self.place, object_store.CHECKING).get_file_info(bucket)
            if found.type == pa.fs.FileType.NotFound:
                raise HarnessError(f"'{self}' cannot be used: {object_store.NO_BUCKET}")

    # --- reading ---

    @contextmanager
    def open(self, path: Path | str) -> Iterator[pa.NativeFile]:
        """A file to read from at any position: of a large one only what is asked for is fetched."""
        with self._refusals("read", path), self._files.open_input_file(self._address(path)) as file:
            yield file

    def read(self, path: Path | str) -> bytes:
        """A file's content."""
        with self.open(path) as file:
            content: bytes = file.read()
        return content

    def info(self, path: Path | str) -> Info | None:
        """Of a file that is there; else None."""
        with self._refusals("read", path):
            entry = self._files.get_file_info(self._address(path))
        return _info(entry) if entry.is_file else None

    def files(self, folder: str, suffix: str) -> dict[Path, Info]:
        """The files below a folder that end so, in order of their paths; hidden ones are not shown."""
        if self.local is not None:
            paths = [path.relative_to(self.local) for path in (self.local / folder).rglob(f"[!.]*{suffix}")]
            return {path: info for path in sorted(paths) if (info := self.info(path))}
        selector = pa.fs.FileSelector(self._address(folder), recursive=True, allow_not_found=True)
        with self._refusals("read", folder):
            entries = self._files.get_file_info(selector)
        start = len(self._address("")) + 1
        shown = {}
        for entry in entries:
            path = Path(entry.path[start:])
            # An object may be called anything: '..' would lead a copy out of its folder.
            if entry.is_file and ".." not in path.parts and _is_shown(entry.base_name, suffix):
                shown[path] = _info(entry)
        return dict(sorted(shown.items()))

    def copied(self, files: Mapping[Path, Info]) -> Path:
        """A local folder where these files are at the same paths: this one, or one of copies.

        Copies are kept in the user's cache folder, and fetched again when size or time of writing differ.
        """
        if self.local is not None:
            return self.local
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "harness")
        root = cache / hashlib.sha256(str(self.place).encode()).hexdigest()[:16]
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        copies = Folder(root)

        def copy(path: Path) -> None:
            if copies.info(path) == files[path]:
                return
            with suppress(FileNotFoundError):  # gone since it was listed: whoever reads the copies says so
                copies.write(path, self.read(path))
                os.utime(root / path, ns=(files[path].modified_ns,) * 2)

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(copy, files))
        return root

    # --- writing ---

    def write(self, path: Path | str, payload: Payload) -> None:
        """Write or replace a file: a reader sees what was there before, or all of it.

        A payload in parts is asked for them one by one, as they are written.
        """
        with self._refusals("written", path):
            if self.local is not None:
                _rename_into_place(self.local / path, payload)
            else:
                whole = b"".join(payload) if isinstance(payload, Iterator) else payload
                # Closing the stream completes the upload, whatever was written to it. In a thread of its own
                # Ctrl-C can't come in between, and leave half a file behind that looks whole.
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(object_store.put, self._files, self._address(path), whole).result()

    def delete(self, path: Path | str) -> None:
        """Remove a file, if it is there."""
        with self._refusals("written", path):
            with suppress(FileNotFoundError):
                self._files.delete_file(self._address(path))

    # ---

    @property
    def _files(self) -> pa.fs.FileSystem:
        """Made where it is needed: a folder travels to other processes, a file system's connections don't."""
        if isinstance(self.place, Path):
            return _LOCAL
        return object_store.file_system(self.place, object_store.WORKING)

    def _address(self, path: Path | str) -> str:
        """What pyarrow calls a file."""
        if isinstance(self.place, Path):
            return str(self.place / path)
        return f"{object_store.key_of(self.place)}/{path}".rstrip("/")

    @contextmanager
    def _refusals(self, verb: str, path: Path | str = "") -> Iterator[None]:
        """What the storage refuses is a HarnessError, but for a file that is not there to be read."""
        try:
            yield
        except OSError as error:
            if verb == "read" and isinstance(error, FileNotFoundError):
                raise
            where = self.locate(path) if path else self
            raise HarnessError(f"'{where}' cannot be {verb}: {_reason(error)}") from error


_LOCAL = pa.fs.LocalFileSystem()


def _reason(error: OSError) -> str:
    message = " ".join(str(error).split())
    if meaning := object_store.meaning_of(message):
        return f"{meaning} ({message})"
    return _no_space(error) or error.strerror or message


def _info(entry: pa.fs.FileInfo) -> Info:
    return Info(entry.size, entry.mtime_ns)


def _is_shown(name: str, suffix: str) -> bool:
    """As the pattern ``[!.]*SUFFIX`` has it."""
    return not name.startswith(".") and name[1:].endswith(suffix)


def _rename_into_place(path: Path, payload: Payload) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = locking.temporary(path)
    try:
        with temporary.open("wb") as file:
            for part in payload if isinstance(payload, Iterator) else (payload,):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def explained_full_disk(place: str) -> Iterator[None]:
    """A full disk is a HarnessError, whoever met it: Tune, MLflow and others write there, too."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if reason := _no_space(cause):
                raise HarnessError(f"'{place}' cannot be written: {reason}") from error
            cause = cause.__cause__ or cause.__context__
        raise


def _no_space(error: BaseException) -> str | None:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and "database or disk is full" not in str(error):  # SQLite's words
        return None
    words = os.strerror(getattr(error, "errno", None) or errno.ENOSPC)
    return f"{words}. What is finished stays: make room, and run the same command again"
