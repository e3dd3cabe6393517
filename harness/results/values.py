"""In what the rows of two cells that measure the same thing differ."""

from collections.abc import Iterable

import pyarrow as pa


def differing(ours: pa.Table, theirs: pa.Table, columns: Iterable[str], other: str) -> dict[str, str]:
    """Column -> how its values differ, where they do; ``other`` is what theirs are called."""
    found = {}
    for column in columns:
        a, b = ours[column], theirs[column]
        if not a.equals(b):
            found[column] = _rows(a, b, other)
    return found


def _rows(a: pa.ChunkedArray, b: pa.ChunkedArray, other: str) -> str:
    if len(a) != len(b):
        return f"{len(a)} rows, {other} {len(b)}"
    pairs = [(x, y) for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True) if x != y]
    numbers = [abs(x - y) for x, y in pairs if isinstance(x, float) and isinstance(y, float)]
    return f"{len(pairs)} of {len(a)} rows" + (f", by up to {max(numbers):.3g}" if numbers else "")
