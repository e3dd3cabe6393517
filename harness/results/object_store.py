"""Object stores through pyarrow: their addresses, connections and uploads, and what their refusals mean."""

import re
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from harness.errors import HarnessError, did_you_mean

_OPTIONS = ("endpoint_override", "region", "scheme")
NO_BUCKET = "there is no such bucket: create it first"
# What pyarrow's message of a failure contains, and what it means.
_REASONS = {
    "NO_SUCH_BUCKET": NO_BUCKET,
    "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|HTTP status 40[13]": (
        "expected credentials that may read and write there (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or a profile in ~/.aws), came ones that were refused, or none"
    ),
    "NETWORK_CONNECTION": (
        "nothing answers there: is the address right (endpoint_override=HOST:PORT, scheme=http or https)?"
    ),
}


@dataclass(frozen=True)
class Retry:
    """How long an object store may say nothing: attempts at a request, seconds that each waits."""

    attempts: int
    timeout_s: float


CHECKING = Retry(2, 5.0)  # whether something answers is known soon
WORKING = Retry(6, 30.0)  # work under way waits out a short outage


def put(files: pa.fs.FileSystem, address: str, payload: bytes | pa.Buffer) -> None:
    """Upload an object; until that is complete there is none, or the one before."""
    # Arrow's threads send the parts, and may hold one until after the command has ended. A thread that lets
    # go of Python's memory while the interpreter ends aborts the process: so it gets a copy of Arrow's own.
    copy = pa.allocate_buffer(len(payload))
    with pa.FixedSizeBufferWriter(copy) as writer:
        writer.write(payload)
    stream = files.open_output_stream(address)
    stream.write(copy)
    stream.close()  # not where writing failed: it would complete the upload


def options_of(uri: str) -> dict[str, str]:
    """The options of the URI; HarnessError for one that is not known, or a missing bucket."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise HarnessError(
            "a results URI with a password in it would be shown to others: "
            "leave the credentials to AWS_* variables or ~/.aws"
        )
    if not uri.startswith("s3://") or not re.fullmatch(r"[A-Za-z0-9._-]+", parts.netloc):
        raise HarnessError(
            f"the results '{uri}': expected s3://BUCKET/PREFIX, got the bucket '{parts.netloc}'"
        )
    try:
        values = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise HarnessError(
            f"the results '{uri}': expected options as name=value&name=value, got '{parts.query}'"
        ) from error
    options = {name: given[-1] for name, given in values.items()}
    for name in options:
        if name not in _OPTIONS:
            raise HarnessError(f"the results '{uri}': unknown option '{name}'{did_you_mean(name, _OPTIONS)}")
    if options.get("scheme", "https") not in ("http", "https"):
        raise HarnessError(f"the results '{uri}': expected scheme=http or https, got '{options['scheme']}'")
    return options


def key_of(uri: str) -> str:
    """bucket/prefix."""
    parts = urlsplit(uri)
    return parts.netloc + unquote(parts.path).rstrip("/")


@cache
def file_system(uri: str, retry: Retry) -> pa.fs.FileSystem:
    """Connections are shared by all that this process does."""
    options: dict[str, str] = options_of(uri)
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = pa.fs.resolve_s3_region(urlsplit(uri).netloc)
    return pa.fs.S3FileSystem(
        **options,
        connect_timeout=retry.timeout_s,
        request_timeout=retry.timeout_s,
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=retry.attempts),
        allow_delayed_open=True,
    )


def meaning_of(message: str) -> str | None:
    """What pyarrow's message of a failure means; None for one that is not known."""
    for pattern, meaning in _REASONS.items():
        if re.search(pattern, message):
            return meaning
    return None
