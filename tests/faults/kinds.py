"""The faults: each waits for its moment, strikes, and makes sure that it hit; None where it did not."""

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from faults import processes, tables
from faults.study import PATIENCE_S, Driver, Hang, Run, Violation, harness

_POLL_S = 0.02
_SWALLOWED_S = 30.0  # after which a Ctrl-C is taken for lost
_SETUP = (
    "ray::Rank.__init__",
    "ray::Rank.address",
    "ray::Rank.join",
    "ray::Rank.open",
    "ray::ResourceTrainable.__init__",
)
_EPOCH = ("ray::Rank.epoch", "ray::ResourceTrainable.train")
TRAININGS = ("base-network", "defense", "baselines")


@dataclass(frozen=True)
class Kind:
    """``strike(run, steps)`` -> what was hit, or None. ``steps``: where it can hit. ``ends``: no driver is
    left at work.
    """

    name: str
    steps: tuple[str, ...]
    strike: Callable[[Run, tuple[str, ...]], str | None]
    ends: bool = False


def _moments(run: Run, steps: tuple[str, ...]) -> Iterator[Driver]:
    """The driver, again and again, while the study is in one of the steps."""
    first = min(tables.STEPS.index(step) for step in steps)
    last = max(tables.STEPS.index(step) for step in steps)
    driver, end = run.running(), time.monotonic() + PATIENCE_S
    while driver.alive:
        step = run.step
        if not step or tables.STEPS.index(step) > last:
            return
        if tables.STEPS.index(step) >= first:
            yield driver
        if time.monotonic() > end:
            raise Hang(
                f"no moment for a fault in {steps}; the study is in '{step}' and the driver said:\n"
                f"{driver.said()[-2000:]}"
            )
        time.sleep(_POLL_S)


# --- kills -----------------------------------------------------------------------------------------------


def kill_worker(*titles: str) -> Callable[[Run, tuple[str, ...]], str | None]:
    """SIGKILL of one of Ray's workers while it calls itself so, some time after the first that does."""

    def strike(run: Run, steps: tuple[str, ...]) -> str | None:
        seen, delay = 0.0, run.rng.uniform(0, 1.0)
        for _ in _moments(run, steps):
            found = processes.titled(os.getpid(), *titles)
            seen = seen or (time.monotonic() if found else 0.0)
            if not found or time.monotonic() < seen + delay:
                continue
            victim, step = run.rng.choice(found), run.step
            if step in steps and victim.kill() and not processes.gone([victim], within_s=30):
                return f"{victim.title} in {step}" if run.step == step else None
        return None

    return strike


def kill_server(run: Run, steps: tuple[str, ...]) -> str | None:
    """SIGKILL of the process that is forked for workers: those that it has made go on, later ones do
    without.
    """
    seen, delay = 0.0, run.rng.uniform(0, 1.0)
    for driver in _moments(run, steps):
        found = [p for p in processes.below(driver.process.pid) if _is_server(p, driver)]
        seen = seen or (time.monotonic() if found else 0.0)
        if not found or time.monotonic() < seen + delay:
            continue
        step = run.step
        if step in steps and found[0].kill() and not processes.gone(found[:1], within_s=30):
            return f"in {step}"
    return None


def _is_server(process: processes.Process, driver: Driver) -> bool:
    """A worker that was forked has its title until it takes one of its own, but not its parent."""
    return "harness.cluster.forkserver" in process.title and process.parent == driver.process.pid


def kill_driver(run: Run, steps: tuple[str, ...]) -> str | None:
    """SIGKILL of the driver alone: what it started must end by itself."""
    return _signal(run, steps, signal.SIGKILL, False, -signal.SIGKILL)


def interrupt(run: Run, steps: tuple[str, ...]) -> str | None:
    """Ctrl-C: SIGINT to the driver, or, as a terminal sends it, to all of its process group."""
    return _signal(run, steps, signal.SIGINT, run.rng.random() < 0.5, 130)


def terminate(run: Run, steps: tuple[str, ...]) -> str | None:
    """SIGTERM, as batch systems send it."""
    return _signal(run, steps, signal.SIGTERM, False, 143)


def _signal(run: Run, steps: tuple[str, ...], number: int, group: bool, expected: int) -> str | None:
    seen, delay = 0.0, run.rng.uniform(0, 2.0)
    for driver in _moments(run, steps):
        seen = seen or time.monotonic()
        if time.monotonic() < seen + delay:
            continue
        step = run.step
        (os.killpg if group else os.kill)(driver.process.pid, number)
        with suppress(Hang):
            driver.ended(_SWALLOWED_S)
        # Python drops a KeyboardInterrupt that meets it in a weak reference's callback: a person would press
        # Ctrl-C again.
        again = number == signal.SIGINT and driver.alive and "Exception ignored in" in driver.said()
        if again:
            os.kill(driver.process.pid, number)
        code = driver.ended()
        run.drivers.remove(driver)
        if code != expected or ("Traceback" in driver.said() and not again):
            raise Violation(
                f"ended with {code}, not {expected}, after signal {number} in {step}; it said:\n"
                f"{driver.said()[-3000:]}"
            )
        return f"{'group' if group else 'driver'} in {step}{', twice' if again else ''}"
    return None


def kill_node(run: Run, steps: tuple[str, ...]) -> str | None:
    """SIGKILL of the second raylet, or of all that runs on its node, while it has work; another node comes
    later.
    """
    assert run.cluster is not None, "needs a cluster of two nodes"
    node, whole = run.cluster.second, run.rng.random() < 0.5
    seen, delay = 0.0, run.rng.uniform(0, 1.0)
    for _ in _moments(run, steps):
        seen = seen or (time.monotonic() if node.busy() else 0.0)
        if not seen or time.monotonic() < seen + delay or not node.busy():
            continue
        step, tree = run.step, node.tree()
        titles = [
            p.title.split("(")[0]
            for p in tree
            if p.title.startswith("ray::_Holder") or "Rank" in p.title or "Trainable" in p.title
        ]
        victims = tree if whole else [p for p in tree if "/raylet/raylet " in p.title]
        if not [victim for victim in victims if victim.kill()]:
            continue
        if left := processes.gone(tree, within_s=60):
            raise Violation(f"the lost node's processes go on: {[(p.pid, p.title[:80]) for p in left]}")
        hit = (
            f"{'all of the node' if whole else 'its raylet'} with {titles} in {step}"
            if run.step == step
            else None
        )
        # The study must get on without it; the next node is there for the next fault.
        time.sleep(run.rng.uniform(2, 6))
        run.cluster.replace_second()
        return hit
    return None


# --- disk and files --------------------------------------------------------------------------------------


def fill_disk(run: Run, steps: tuple[str, ...]) -> str | None:
    """No byte is free where the results are: the command must end with a clear error, and go on once there is
    room.
    """
    seen, delay = 0.0, run.rng.uniform(0, 1.0)
    ballast = run.results.parent / "ballast"
    for driver in _moments(run, steps):
        seen = seen or time.monotonic()
        if time.monotonic() < seen + delay:
            continue
        step = run.step
        try:
            _fill(ballast)
            codes = [driver.ended() for driver in run.drivers]
        finally:
            ballast.unlink(missing_ok=True)
        said = "".join(driver.said() for driver in run.drivers)
        run.drivers.clear()
        if set(codes) == {0}:
            return None  # all had been written
        if set(codes) != {2} or "Traceback" in said or "No space left on device" not in said:
            raise Violation(f"ended with {codes} on a full disk in {step}; it said:\n{said[-3000:]}")
        return f"in {step}"
    return None


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def damage(
    how: Callable[[bytes, random.Random], bytes], tensors: bool
) -> Callable[[Run, tuple[str, ...]], str | None]:
    """A finished cell's file is damaged between two runs: `harness verify` names it, repairs it, and the cell
    is made anew.
    """

    def strike(run: Run, steps: tuple[str, ...]) -> str | None:
        run.stop()
        run.check()
        cells = sorted(tables.files(run.results))
        if not cells:
            return None
        cell = run.rng.choice(cells)
        victim = run.results / cell
        if tensors and tables.tensors_of(victim).exists() and run.rng.random() < 0.5:
            victim = tables.tensors_of(victim)
        whole = victim.read_bytes()
        victim.write_bytes(how(whole, run.rng))
        assert victim.read_bytes() != whole, "not damaged"
        run.forget([cell])
        found = harness("verify", "--results", str(run.results))
        if found.returncode != 1 or Path(cell).stem not in found.stdout:
            raise Violation(
                f"harness verify did not find the damage of {victim}: "
                f"{found.returncode} {found.stdout}{found.stderr}"
            )
        repaired = harness("verify", "--repair", "--results", str(run.results))
        if (run.results / cell).exists():
            raise Violation(
                f"harness verify --repair left {cell}: "
                f"{repaired.returncode} {repaired.stdout}{repaired.stderr}"
            )
        return victim.relative_to(run.results).as_posix()

    return strike


def truncate(whole: bytes, rng: random.Random) -> bytes:
    return whole[: rng.randrange(1, len(whole))]


def flip(whole: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(whole))
    return whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]


def empty(whole: bytes, rng: random.Random) -> bytes:
    return b""


# --- others ----------------------------------------------------------------------------------------------


def second_driver(run: Run, steps: tuple[str, ...]) -> str | None:
    """The same command again while it runs: one works, the other waits and finds all done, or takes over."""
    delay = run.rng.uniform(0, 2.0)
    seen = 0.0
    for driver in _moments(run, steps):
        seen = seen or time.monotonic()
        if time.monotonic() < seen + delay:
            continue
        second = run.start()
        for _ in _moments(run, tables.STEPS):
            if "is being run" in second.said() and driver.alive:
                return f"in {run.step}"
        return None
    return None


def lock_mlflow(run: Run, steps: tuple[str, ...]) -> str | None:
    """Someone holds MLflow's database for as long as the study runs: Parquet is written all the same."""
    run.stop()
    if not run.step:
        return None
    database = _tracked(run)
    with _exclusively(database):
        driver = run.start()
        code = driver.ended()
    run.drivers.remove(driver)
    if code not in (0, 2) or "Traceback" in driver.said():
        raise Violation(
            f"ended with {code} while MLflow's database was locked; it said:\n{driver.said()[-3000:]}"
        )
    if run.step:
        raise Violation(
            f"stopped in '{run.step}' because MLflow's database was locked; it said:\n{driver.said()[-3000:]}"
        )
    return f"exit code {code}" if "MLflow" in driver.said() else None


@contextmanager
def _exclusively(database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    try:
        connection.execute("begin exclusive")
        yield
        connection.execute("rollback")
    finally:
        connection.close()


def remove_mlflow(run: Run, steps: tuple[str, ...]) -> str | None:
    """MLflow's database is deleted, before a run or in the midst of it."""
    for _ in _moments(run, steps):
        _tracked(run).unlink()
        return f"in {run.step}"
    return None


def _tracked(run: Run) -> Path:
    """MLflow's database with the runs so far: a study itself writes them at its end."""
    told = harness("track", "--results", str(run.results))
    if told.returncode:
        raise Violation(f"harness track: {told.stdout}{told.stderr}")
    return run.results / "mlflow.db"


def move_clock(run: Run, steps: tuple[str, ...]) -> str | None:
    """The wall clock jumps for all processes of the study, by up to a day and a half, either way."""
    seen, delay = 0.0, run.rng.uniform(0, 2.0)
    for driver in _moments(run, steps):
        seen = seen or time.monotonic()
        if time.monotonic() < seen + delay:
            continue
        offset = run.rng.choice([-1, 1]) * run.rng.randrange(3600, 36 * 3600)
        step = run.step
        (run.place / "clock").write_text(str(offset))
        if "clock.so" not in Path(f"/proc/{driver.process.pid}/maps").read_text():
            raise Violation("the driver does not see the moved clock")
        return f"{offset:+d} s in {step}" if driver.alive else None
    return None


def build_clock(folder: Path) -> Path:
    """Compile the library that moves the clock."""
    library, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wall", "-o", str(library), str(source)], check=True)
    return library


ANY = tables.STEPS
KINDS = {
    kind.name: kind
    for kind in (
        Kind("driver killed", ANY, kill_driver, ends=True),
        Kind("bound actor killed", ("bound",), kill_worker("ray::_Holder")),
        Kind("training rank killed in setup", TRAININGS, kill_worker(*_SETUP)),
        Kind("training rank killed in mid-epoch", TRAININGS, kill_worker(*_EPOCH)),
        Kind("attack worker killed", ("attack",), kill_worker("ray::_Holder.call")),
        Kind("fork server killed", (*TRAININGS, "attack"), kill_server),
        Kind("node killed", ("base-network", "attack", *TRAININGS, "black-box", "white-box"), kill_node),
        Kind("Ctrl-C", ANY, interrupt, ends=True),
        Kind("driver terminated", ANY, terminate, ends=True),
        Kind("disk full", ANY, fill_disk, ends=True),
        Kind("file truncated", ANY, damage(truncate, tensors=True), ends=True),
        Kind("byte flipped", ANY, damage(flip, tensors=True), ends=True),
        Kind("empty file", ANY, damage(empty, tensors=True), ends=True),
        Kind("two drivers", ANY, second_driver),
        Kind("MLflow locked", ANY, lock_mlflow, ends=True),
        Kind("MLflow missing", ANY, remove_mlflow),
        Kind("clock moved", ANY, move_clock),
    )
}
