"""Where files lie: a local folder, a shared mount, or an object store through pyarrow, behind a few operations.

On each a file appears whole or not at all: locally because a finished one is renamed, in an object
store because an upload is no object before it is completed.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from harness import locking
from harness.errors import HarnessError, did_you_mean

CONNECTIONS = 16  # requests at once, where each waits for an object store
_OPTIONS = ("endpoint_override", "region", "scheme")
# Attempts and seconds of silence: a check that something answers is told soon, work under way waits out a short outage.
_HASTY, _PATIENT = (2, 5.0), (6, 30.0)
# What pyarrow's message of a failure contains, and what it means.
_REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket: create it first",
    "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|HTTP status 40[13]": "expected credentials that may read and write there "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws), came ones that were refused, or none",
    "NETWORK_CONNECTION": "nothing answers there: is the address right (endpoint_override=HOST:PORT, scheme=http or https)?",
}


@dataclass(frozen=True)
class Info:
    """Size in bytes, and when the file was written in nanoseconds since the epoch (object stores know whole seconds)."""

    size: int
    modified_ns: int


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
        scheme, rest = re.fullmatch(r"(?:([A-Za-z][A-Za-z0-9+.-]+):/+)?(.*)", str(place), re.DOTALL).groups()  # type: ignore[union-attr]
        if scheme is None:  # one letter and a colon is a drive
            return cls(place if isinstance(place, Path) else Path(place).expanduser().absolute())
        if scheme == "file":
            return cls(Path("/" + unquote(rest)))
        if scheme != "s3" or isinstance(place, Path):
            raise HarnessError(
                f"the results '{place}': expected a folder, file:///FOLDER or s3://BUCKET/PREFIX, got '{scheme}:'"
            )
        _s3_options(place)
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
        """Raise HarnessError at once where an object store does not answer, knows no such bucket or refuses our credentials."""
        if isinstance(self.place, str):
            with self._told("used"):
                if (
                    _s3(self.place, *_HASTY).get_file_info(_key(self.place).split("/")[0]).type
                    == pa.fs.FileType.NotFound
                ):
                    raise HarnessError(f"'{self}' cannot be used: {_REASONS['NO_SUCH_BUCKET']}")

    # --- reading ---

    @contextmanager
    def open(self, path: Path | str) -> Iterator[pa.NativeFile]:
        """A file to read from at any position: of a large one only what is asked for is fetched."""
        with self._told("read", path), self._files.open_input_file(self._address(path)) as file:
            yield file

    def read(self, path: Path | str) -> bytes:
        with self.open(path) as file:
            content: bytes = file.read()
            return content

    def info(self, path: Path | str) -> Info | None:
        """Of a file that is there; else None."""
        with self._told("read", path):
            found = self._files.get_file_info(self._address(path))
        return _info(found) if found.is_file else None

    def files(self, folder: str, suffix: str) -> dict[Path, Info]:
        """The files below a folder that end so, in order of their paths; hidden ones are not shown."""
        if self.local is not None:
            found = [path.relative_to(self.local) for path in (self.local / folder).rglob(f"[!.]*{suffix}")]
            return {path: info for path in sorted(found) if (info := self.info(path))}
        start = len(self._address("")) + 1
        with self._told("read", folder):
            entries = self._files.get_file_info(
                pa.fs.FileSelector(self._address(folder), recursive=True, allow_not_found=True)
            )
        shown = {
            Path(e.path[start:]): _info(e)
            for e in entries
            if e.is_file and re.fullmatch(f"[^.].*{re.escape(suffix)}", e.base_name)
        }
        # An object may be called anything: '..' would lead a copy out of its folder.
        return {path: shown[path] for path in sorted(shown) if ".." not in path.parts}

    def copied(self, files: Mapping[Path, Info]) -> Path:
        """A local folder where these files are at the same paths: this one, or one of copies.

        Copies are kept in the user's cache folder and fetched again when the size or the second of writing differs.
        """
        if self.local is not None:
            return self.local
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "harness")
        root = cache / hashlib.sha256(str(self.place).encode()).hexdigest()[:16]
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        copies = Folder(root)

        def copy(path: Path) -> None:
            if copies.info(path) != files[path]:
                with suppress(
                    FileNotFoundError
                ):  # gone since it was listed: whoever reads the copies says so
                    copies.write(path, self.read(path))
                    os.utime(root / path, ns=(files[path].modified_ns,) * 2)

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(copy, files))
        return root

    # --- writing ---

    def write(self, path: Path | str, payload: bytes | pa.Buffer) -> None:
        """Write or replace a file: a reader sees what was there before, or all of it."""
        with self._told("written", path):
            if self.local is not None:
                _rename_into_place(self.local / path, payload)
            else:
                # Closing pyarrow's stream completes the upload, whatever was written to it. In a thread of its own
                # Ctrl-C can't come in between, and leave half a file behind that looks whole.
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(_put, self._files, self._address(path), payload).result()

    def delete(self, path: Path | str) -> None:
        """Remove a file, if it is there."""
        with self._told("written", path):
            with suppress(FileNotFoundError):
                self._files.delete_file(self._address(path))

    # ---

    @property
    def _files(self) -> pa.fs.FileSystem:
        """Made where it is needed: a folder travels to other processes, a file system's connections don't."""
        return _LOCAL if not isinstance(self.place, str) else _s3(self.place, *_PATIENT)

    def _address(self, path: Path | str) -> str:
        """What pyarrow calls a file."""
        return (
            f"{_key(self.place)}/{path}".rstrip("/")
            if isinstance(self.place, str)
            else str(self.place / path)
        )

    @contextmanager
    def _told(self, done: str, path: Path | str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if done == "read" and isinstance(error, FileNotFoundError):
                raise
            raise HarnessError(
                f"'{self.locate(path) if path else self}' cannot be {done}: {_reason(error)}"
            ) from error


_LOCAL = pa.fs.LocalFileSystem()


def _info(found: pa.fs.FileInfo) -> Info:
    return Info(found.size, found.mtime_ns)


def _rename_into_place(path: Path, payload: bytes | pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = locking.temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- object stores ---


def _put(files: pa.fs.FileSystem, address: str, payload: bytes | pa.Buffer) -> None:
    stream = files.open_output_stream(address)
    stream.write(payload)
    stream.close()


def _s3_options(uri: str) -> dict[str, str]:
    """The options of the URI; HarnessError for one that is not known, or a missing bucket."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise HarnessError(
            "a results URI with a password in it would be shown to others: leave the credentials to AWS_* variables or ~/.aws"
        )
    if not uri.startswith("s3://") or not re.fullmatch(r"[A-Za-z0-9._-]+", parts.netloc):
        raise HarnessError(
            f"the results '{uri}': expected s3://BUCKET/PREFIX, got the bucket '{parts.netloc}'"
        )
    try:
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise HarnessError(
            f"the results '{uri}': expected options as name=value&name=value, got '{parts.query}'"
        ) from error
    for name in given:
        if name not in _OPTIONS:
            raise HarnessError(f"the results '{uri}': unknown option '{name}'{did_you_mean(name, _OPTIONS)}")
    options = {name: values[-1] for name, values in given.items()}
    if options.get("scheme", "https") not in ("http", "https"):
        raise HarnessError(f"the results '{uri}': expected scheme=http or https, got '{options['scheme']}'")
    return options


def _key(uri: str) -> str:
    """bucket/prefix."""
    parts = urlsplit(uri)
    return parts.netloc + unquote(parts.path).rstrip("/")


@cache
def _s3(uri: str, attempts: int, timeout_s: float) -> pa.fs.FileSystem:
    """Connections are shared by all that this process does."""
    options: dict[str, str] = _s3_options(uri)
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = pa.fs.resolve_s3_region(urlsplit(uri).netloc)
    return pa.fs.S3FileSystem(
        **options, connect_timeout=timeout_s, request_timeout=timeout_s, allow_delayed_open=True,
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )  # fmt: skip


def _reason(error: OSError) -> str:
    text = " ".join(str(error).split())
    for pattern, meaning in _REASONS.items():
        if re.search(pattern, text):
            return f"{meaning} ({text})"
    return _no_space(error) or error.strerror or text


@contextmanager
def full_disk_told(place: str) -> Iterator[None]:
    """Tell of a full disk in our words, whoever met it: Tune, MLflow and others write there, too."""
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
    said = os.strerror(getattr(error, "errno", None) or errno.ENOSPC)
    return f"{said}. What is finished stays: make room, and run the same command again"
