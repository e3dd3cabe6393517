"""Timing that can be believed: contenders take turns on the same work, the first turn does not count.

Taking turns (A B C A B C ...) lets a machine whose speed drifts slow all of them alike; ratios are made
turn by turn. What a contender found (how many images were fooled, at which distance) is kept beside
its time: speed at another answer is no speed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from harness.errors import HarnessError

OURS = "harness"
ALONE = "its network alone"  # no method: what the harness asks of its network, and nothing else
# Columns of table ``benchmark`` that a run may fill beside its time.
QUALITIES = ("agreement", "fooled", "l2", "accuracy", "candidates", "overhead_s")


@dataclass(frozen=True)
class Contender:
    """One way to do a case's work. ``run(prepare())`` does ``measured`` units of it; only ``run`` is timed.

    It returns what it found, by ``QUALITIES``; a key ``seconds`` replaces the measured time where only a part
    of the run is the question. ``run`` None: not measured here, and ``note`` says why. ``warm_up``: what the
    turn that does not count does, where that can be less than a run.
    """

    name: str
    run: Callable[[Any], Mapping[str, float]] | None
    measured: int
    note: str = ""
    prepare: Callable[[], Any] = lambda: None
    warm_up: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work that several contenders do: ``amount`` units of it; ``threads`` CPU threads each."""

    part: str
    name: str
    unit: str
    amount: int
    threads: int
    device: str
    contenders: tuple[Contender, ...]
    # images, values, classes: what costs are fitted to
    shape: Mapping[str, int] = field(default_factory=dict)


def measure(
    case: Case, repeats: int, on_turn: Callable[[str], None] = lambda name: None
) -> dict[str, list[Any]]:
    """Rows of table ``benchmark`` for one case: one for each contender and turn.

    A contender that is not measured has one row, without seconds. Raises HarnessError where a contender
    fails: a benchmark with a hole that nobody asked for misleads.
    """
    rows: list[dict[str, Any]] = []
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    for turn in range(repeats + 1):
        for position, contender in enumerate(case.contenders):
            if contender.run is None:
                if turn == 1:
                    rows.append(_row(position, contender, None, None, None, {}))
                continue
            on_turn(contender.name)
            if not turn and contender.warm_up:
                contender.warm_up()
                continue
            state = contender.prepare()
            began, began_cpu = time.perf_counter(), time.process_time()
            try:
                found = dict(contender.run(state))
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                raise HarnessError(
                    f"{case.part}, {case.name}: {contender.name} failed: {type(error).__name__}: {error}"
                ) from error
            wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
            if turn:
                rows.append(_row(position, contender, turn, found.pop("seconds", wall), cpu, found))
    return {"measured_at": [now] * len(rows)} | {name: [row[name] for row in rows] for name in rows[0]}


def _row(
    position: int,
    contender: Contender,
    turn: int | None,
    wall: float | None,
    cpu: float | None,
    found: Mapping[str, float],
) -> dict[str, Any]:
    assert not set(found) - set(QUALITIES), f"unknown qualities {found}"
    return {
        "position": position,
        "contender": contender.name,
        "turn": turn,
        "measured": contender.measured,
        "seconds": wall,
        "cpu_seconds": cpu,
        "note": contender.note or None,
        **{name: found.get(name) for name in QUALITIES},
    }
