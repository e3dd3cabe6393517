"""The series: which faults in which order and step, all from one seed; and the table that comes of it."""

import csv
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from faults import kinds, processes, tables
from faults.study import Cluster, Command, Driver, Fault, Reference, Run

COLUMNS = ("fault", "times", "lost", "doubled", "redone", "identical")


@dataclass(frozen=True)
class Round:
    """One run of the study from nothing to its end: (kind, steps) in order, on a Ray of its own or on two
    raylets.
    """

    faults: tuple[tuple[str, tuple[str, ...]], ...]
    cluster: bool = False


# The steps of faults that need workers; others hit in any.
_WHERE = {"node killed": kinds.TRAININGS, "fork server killed": (*kinds.TRAININGS, "attack")}

# Of the default tests: the kinds that need neither root nor a C compiler nor a second node.
SHORT = Round(
    (
        ("bound actor killed", ("bound",)),
        ("training rank killed in mid-epoch", ("base-network",)),
        ("fork server killed", ("base-network", "attack")),
        ("driver killed", tables.STEPS[1:]),  # in whatever step a fast machine is by then
        ("byte flipped", tables.STEPS),
        ("attack worker killed", ("attack",)),
        ("two drivers", ("attack", "defense")),
        ("Ctrl-C", ("defense", "baselines", "black-box", "white-box")),
        ("empty file", tables.STEPS),
    )
)


def undisturbed(command: Command, place: Path) -> None:
    """Run the study without faults."""
    place.mkdir(parents=True)
    log = place / "driver.log"
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": str(place / "ray")}
    started = subprocess.Popen(
        command.line(place / "results"), stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment
    )
    code = Driver(started, log).ended()
    if code:
        raise AssertionError(f"the undisturbed run ended with {code}:\n{log.read_text()[-3000:]}")


def play(
    round_: Round,
    command: Command,
    reference: Reference,
    place: Path,
    rng: random.Random,
    say: Callable[[str], None],
    faults: list[Fault],
) -> None:
    """Run the study through a round's faults to its end; every fault that hit is added to ``faults``. Raises
    Violation or Hang.
    """
    place.mkdir(parents=True)
    with ExitStack() as stack:
        if any(kind == "disk full" for kind, _ in round_.faults):
            stack.enter_context(_small_disk(place / "disk"))
        cluster = stack.enter_context(Cluster(place / "cluster")) if round_.cluster else None
        clock = kinds.build_clock(place) if any(kind == "clock moved" for kind, _ in round_.faults) else None
        run = Run(command, reference, place, rng, cluster, clock, faults)
        stack.callback(run.close)
        for name, steps in round_.faults:
            kind, began = kinds.KINDS[name], time.monotonic()
            struck = kind.strike(run, steps)
            took = time.monotonic() - began
            if struck is None:
                say(f"{name}: missed ({took:.1f} s)")
                continue
            run.hit(name, struck)
            say(f"{name}: {struck} ({took:.1f} s)")
            if kind.ends and not run.drivers:
                run.check()
        run.finish()


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory, small enough to be filled."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def rounds(seed: int) -> Iterator[Round]:
    """Rounds with every kind of fault; those on a Ray of its own and those on two raylets take turns."""
    for index in count():
        yield _round(random.Random(f"{seed} {index}"), index % 2 == 1)


def _round(rng: random.Random, cluster: bool) -> Round:
    """Kills in the steps that they belong to; between them the drivers' ends, each followed by a damaged
    file.
    """
    grid = ("defense", "baselines")
    fixed = [
        ("bound actor killed", "bound"),
        ("attack worker killed", "attack"),
        ("training rank killed in setup", "base-network"),
        ("training rank killed in mid-epoch", "base-network"),
        ("training rank killed in setup", rng.choice(grid)),
        ("training rank killed in mid-epoch", rng.choice(grid)),
    ]
    loose = ["two drivers", "MLflow missing"]
    loose += ["node killed"] * 2 if cluster else ["clock moved", "clock moved", "fork server killed"]
    enders, damages = (
        ["driver killed", "Ctrl-C", "driver terminated", "disk full"],
        ["file truncated", "byte flipped", "empty file"],
    )
    damages.append(rng.choice(damages))
    rng.shuffle(enders)
    rng.shuffle(damages)
    places = sorted(rng.sample(range(1, len(tables.STEPS)), len(enders)))
    faults = [(step, rng.random(), [kind]) for kind, step in fixed]
    faults += [(rng.choice(_WHERE.get(kind, tables.STEPS[1:])), rng.random(), [kind]) for kind in loose]
    # A driver ends after the other faults of its step, before its damaged file.
    faults += [
        (tables.STEPS[at], 2.0, pair)
        for at, pair in zip(places, map(list, zip(enders, damages, strict=True)), strict=True)
    ]
    ordered = sorted(faults, key=lambda fault: (tables.STEPS.index(fault[0]), fault[1]))
    script = [
        (kind, (step,) if kind != "node killed" else tables.STEPS[tables.STEPS.index(step) :])
        for step, _, chain in ordered
        for kind in chain
    ]
    return Round((*script, ("MLflow locked", tables.STEPS)), cluster)


def summary(faults: Iterable[Fault]) -> list[dict[str, object]]:
    """A row for each kind of fault."""
    found: dict[str, list[Fault]] = {name: [] for name in kinds.KINDS}
    for fault in faults:
        found[fault.kind].append(fault)
    return [
        {
            "fault": name,
            "times": len(hits),
            "lost": sum(hit.lost for hit in hits),
            "doubled": sum(hit.doubled for hit in hits),
            "redone": sum(hit.redone for hit in hits),
            "identical": "no" if any(hit.differing for hit in hits) else "yes",
        }
        for name, hits in found.items()
        if hits
    ]


def write(rows: list[dict[str, object]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def start() -> None:
    """To be called once, before anything is started."""
    processes.adopt_orphans()
