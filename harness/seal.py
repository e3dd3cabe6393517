"""A digest of a whole file inside the file: page checksums leave headers and footers of Parquet, half of a small file, unguarded.

The digest is taken with blanks in its own place, which is plain text in a Parquet file's footer.
"""

import hashlib

BLANK = "0" * 64  # stands in the metadata until the file is sealed


def seal(payload: bytes) -> bytes:
    """The file with its digest in the one place where `BLANK` stood."""
    assert payload.count(BLANK.encode()) == 1, "the place of the digest is not clear"
    return payload.replace(BLANK.encode(), hashlib.sha256(payload).hexdigest().encode())


def is_whole(payload: bytes, digest: str) -> bool:
    """Whether every byte is what was sealed with this digest."""
    return hashlib.sha256(payload.replace(digest.encode(), BLANK.encode())).hexdigest() == digest
