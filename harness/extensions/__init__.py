"""Doors for code that is not the harness's: where its packages come from, and digests of them."""

from harness.extensions.code import Moved, code_folder, digest, must_be, shipped

__all__ = ["Moved", "code_folder", "digest", "must_be", "shipped"]
