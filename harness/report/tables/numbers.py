"""Numbers as tables and messages write them."""

from typing import Any


def duration(seconds: float) -> str:
    """'12 s', '3.4 min', '5.6 h', '2.1 days'."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(count: int) -> str:
    """'12 kB', '3.4 MB', '5.6 GB', in powers of 1000."""
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def significant(value: float, digits: int) -> str:
    """12,300,000 or 0.0123: so many digits that mean something."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def with_interval(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    """'0.8 [0.3, 2.4]'; the value alone where it has no interval. ``sign``: '+' to write it always."""
    shown = [round(number, 1) + 0.0 for number in (value, low, high) if number is not None]  # no -0.0
    text = f"{shown[0]:{sign}.1f}"
    return text if len(shown) < 3 else f"{text} [{shown[1]:{sign}.1f}, {shown[2]:{sign}.1f}]"


def exact(value: Any) -> str:
    """Every digit, for other programs to read; nothing for null, bytes in hexadecimal."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return str(value).lower() if isinstance(value, bool) else str(value)


def short(value: Any) -> str:
    """Four digits of a float, for people to read; how many bytes, of bytes."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return f"{value:.4g}" if isinstance(value, float) else exact(value)
