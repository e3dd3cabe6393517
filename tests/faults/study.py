"""A study that is run, stopped and run again: its drivers, the Ray that they use, and what every stop is
checked for.
"""

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from faults import processes, tables

PATIENCE_S = 300.0  # longer than anything but a hang, also on a busy machine
HARNESS_ACTORS = ("ray::_Holder", "ray::Rank", "ray::ResourceTrainable", "ray::Trial")
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")
_HERE = Path(__file__).parent


class Hang(AssertionError):
    """Something did not end."""


class Violation(AssertionError):
    """Something that no fault may lead to."""


@dataclass
class Driver:
    """One `harness run`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self, within_s: float = PATIENCE_S) -> int:
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Hang(
                f"the driver {self.process.args} did not end; it said:\n{self.said()[-3000:]}"
            ) from None


@dataclass
class Node:
    """A raylet, on the head with Ray's other services."""

    process: subprocess.Popen[bytes]

    def tree(self) -> list[processes.Process]:
        return processes.below(self.process.pid)

    def busy(self) -> bool:
        return any(p.title.startswith(HARNESS_ACTORS) for p in self.tree())

    def stop(self) -> None:
        """End the node and all below it."""
        tree = self.tree()
        self.process.kill()
        for process in tree:
            process.kill()
        self.process.wait()


@dataclass
class Cluster:
    """A head and a second node of two cores each, both on this machine."""

    place: Path
    head: Node = field(init=False)
    second: Node = field(init=False)
    address: str = field(init=False)
    token: dict[str, str] = field(
        default_factory=lambda: {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    )

    def __enter__(self) -> "Cluster":
        self.place.mkdir(parents=True)
        port, clients = _free_ports(2)
        self.address = f"127.0.0.1:{port}"
        services = [
            f"--ray-client-server-port={clients}",
            "--include-dashboard=false",
            f"--temp-dir={self.place / 'ray'}",
        ]
        self.head = self._start("head", "--head", f"--port={port}", *services)
        self.second = self._join()
        return self

    def __exit__(self, *error: object) -> None:
        self.second.stop()
        self.head.stop()

    def replace_second(self) -> None:
        """The lost node's successor."""
        self.second.stop()
        self.second = self._join()

    def _join(self) -> Node:
        return self._start("second", f"--address={self.address}")

    def _start(self, name: str, *options: str) -> Node:
        log = (self.place / f"{name}.log").open("ab")
        common = [
            "--node-ip-address=127.0.0.1",
            "--num-cpus=2",
            "--object-store-memory=150000000",
            "--disable-usage-stats",
            "--block",
        ]
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, *common]
        environment = {**os.environ, "RAY_ADDRESS": "", **self.token}
        started = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        end = time.monotonic() + PATIENCE_S
        while (
            b"Ray runtime started"
            not in (self.place / f"{name}.log").read_bytes().rpartition(b"Local node IP")[2]
        ):
            if started.poll() is not None or time.monotonic() > end:
                raise Hang(
                    f"the {name} node did not start:\n{(self.place / f'{name}.log').read_text()[-2000:]}"
                )
            time.sleep(0.2)
        return Node(started)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True)
class Command:
    """What is run, whatever happens: a study and its options."""

    study: str
    options: tuple[str, ...] = ()

    def line(self, results: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "harness.cli",
            "run",
            self.study,
            *self.options,
            "--results",
            str(results),
        ]


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that only looks, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True, timeout=PATIENCE_S
    )


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: every cell's digest, the tables as they are printed, the runs in MLflow."""

    cells: Mapping[str, str]
    printed: str
    runs: int

    @staticmethod
    def of(results: Path) -> "Reference":
        return Reference(
            {cell: tables.values(results, cell) for cell in tables.files(results)},
            printed(results),
            tables.runs(results),
        )


def printed(results: Path) -> str:
    found = harness("tables", "--format", "csv", "--results", str(results))
    if found.returncode:
        raise Violation(f"harness tables: {found.stderr}")
    return found.stdout


@dataclass
class Fault:
    """One fault that hit, and what was wrong afterwards: cells lost, doubled (a cell or a row twice), redone,
    of other values.
    """

    kind: str
    detail: str
    lost: int = 0
    doubled: int = 0
    redone: int = 0
    differing: int = 0
    recovered_s: float = 0.0


@dataclass
class Run:
    """A study on its way to its end through faults."""

    command: Command
    reference: Reference
    place: Path
    rng: random.Random
    cluster: Cluster | None = None
    clock: Path | None = None  # the preloaded library
    faults: list[Fault] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)
    _checked: int = 0
    _count: int = 0
    _known: dict[str, tables.File] = field(default_factory=dict)
    _agents: list[processes.Process] = field(default_factory=list)
    _reader: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self._checked = len(self.faults)  # those of earlier runs

    @property
    def results(self) -> Path:
        return self.place / "disk" / "results"

    @property
    def step(self) -> str:
        return tables.current_step(self.results, self.reference.cells)

    # --- drivers ---

    def start(self) -> Driver:
        """One driver more."""
        self._count += 1
        self.results.mkdir(parents=True, exist_ok=True)
        self._watch()
        log = self.place / f"driver-{self._count}.log"
        environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONUNBUFFERED": "1"}
        if self.cluster:
            environment |= {"RAY_ADDRESS": self.cluster.address, **self.cluster.token}
        environment["RAY_TMPDIR"] = str(self.place / "ray")
        if self.clock:
            environment |= {"LD_PRELOAD": str(self.clock), "FAULTS_CLOCK": str(self.place / "clock")}
        command = self.command.line(self.results)
        process = subprocess.Popen(
            command, stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def running(self) -> Driver:
        """The driver at work: the first that lives, else a new one."""
        self.settle()
        return self.drivers[0] if self.drivers else self.start()

    def settle(self) -> None:
        """Forget drivers that have ended; each must have ended well."""
        for driver in [driver for driver in self.drivers if not driver.alive]:
            self.drivers.remove(driver)
            if driver.process.returncode:
                raise Violation(
                    f"a driver ended with {driver.process.returncode} by itself:\n{driver.said()[-3000:]}"
                )

    def stop(self) -> None:
        """Interrupt all drivers, later ones first, so that none takes over."""
        while self.drivers:
            driver = self.drivers.pop()
            driver.process.send_signal(signal.SIGINT)
            driver.ended()

    def finish(self) -> None:
        """Let the study end, then hold it against the undisturbed run."""
        if not self.drivers:
            self.start()
        for driver in self.drivers:
            driver.ended()
        self.settle()
        if self.step:
            raise Violation(f"the driver ended well without all cells; '{self.step}' is not done")
        self.check()
        if agents := processes.gone(self._agents, within_s=180):
            raise Violation(
                f"Ray's agents go on after their driver's end: {[(p.pid, p.title[:80]) for p in agents]}"
            )
        if left := tables.leftovers(self.results):
            raise Violation(f"left over in the results: {left}")
        verified = harness("verify", "--results", str(self.results))
        if verified.returncode:
            raise Violation(f"harness verify after the end: {verified.stdout}{verified.stderr}")
        if printed(self.results) != self.reference.printed:
            raise Violation("`harness tables` prints something else than after the undisturbed run")
        if (runs := tables.runs(self.results)) != self.reference.runs:
            raise Violation(f"{runs} runs in MLflow, {self.reference.runs} after the undisturbed run")

    # --- what is looked at ---

    def hit(self, kind: str, detail: str) -> Fault:
        """A fault has hit."""
        self.faults.append(Fault(kind, detail))
        return self.faults[-1]

    def check(self, mended: Iterable[str] = ()) -> None:
        """Hold what is there against what was there and the undisturbed run; the faults since the last look
        answer for it.

        ``mended``: cells that were damaged and removed on purpose. No driver may be running.
        """
        lines = self._unwatch()
        if not self.drivers:
            self._none_left()
        mended = set(mended)
        there = tables.files(self.results)
        lost = [cell for cell in self._known if cell not in there and cell not in mended]
        redone = [
            cell
            for cell in self._known
            if cell in there and there[cell] != self._known[cell] and cell not in mended
        ]
        redone += [path for kind, path, _ in lines if kind == "redone"]
        foreign = [cell for cell in there if cell not in self.reference.cells]
        fresh = [
            cell for cell in there if there[cell] != self._known.get(cell) and cell in self.reference.cells
        ]
        differing = [
            cell for cell in fresh if tables.values(self.results, cell) != self.reference.cells[cell]
        ]
        partial = [line for line in lines if line[0] == "partial"]
        self._known = there
        for fault in self.faults[self._checked :]:
            fault.lost, fault.doubled, fault.redone = len(lost), len(foreign), len(redone)
            fault.differing = len(differing)
        answering = [fault.kind for fault in self.faults[self._checked :]]
        self._checked = len(self.faults)
        if lost or redone or foreign or differing or partial:
            raise Violation(f"after {answering}: {lost=} {redone=} {foreign=} {differing=} {partial=}")

    def forget(self, cells: Iterable[str]) -> None:
        """These cells are about to be damaged."""
        for cell in cells:
            self._known.pop(cell, None)

    def _none_left(self) -> None:
        """No process of ours goes on once its driver has ended."""
        kept = {self._reader.pid} if self._reader else set()
        nodes = [self.cluster.head, self.cluster.second] if self.cluster else []
        mine = {node.process.pid for node in nodes} | {p.pid for node in nodes for p in node.tree()}
        others = [p for p in processes.below(os.getpid()) if p.pid not in mine | kept]
        others += [p for node in nodes for p in node.tree() if p.title.startswith(HARNESS_ACTORS)]
        # Ray's agents tell the head that their raylet is gone, and wait a minute for a head that has gone,
        # too. A worker that was being started meanwhile has no work of ours, and takes as long to see that it
        # will get none.
        self._agents += [p for p in others if p.title.startswith(_AGENTS)]
        known = {node.process.pid for node in nodes} | kept
        workers = [p for p in others if not p.title.startswith(_AGENTS)]
        left = processes.gone(workers, within_s=60, known=known)
        processes.reap(known)
        if left:
            raise Violation(
                f"processes go on after their driver's end: {[(p.pid, p.title[:80]) for p in left]}"
            )

    def _watch(self) -> None:
        if self._reader is None:
            command = [sys.executable, "-m", "faults.reader", str(self.results)]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]),
            }
            self._reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def _unwatch(self) -> list[list[str]]:
        if self._reader is None:
            return []
        self._reader.terminate()
        found, _ = self._reader.communicate(timeout=PATIENCE_S)
        code, self._reader = self._reader.returncode, None
        if code not in (0, -signal.SIGTERM):  # the latter where it had not yet begun
            raise Violation(f"the reader itself failed with {code}")
        return [json.loads(line) for line in found.splitlines()]

    def close(self) -> None:
        """End all that is left, however the run ended."""
        self._unwatch()
        for driver in self.drivers:
            driver.process.kill()
            driver.process.wait()
        nodes = [self.cluster.head, self.cluster.second] if self.cluster else []
        mine = {p.pid for node in nodes for p in [*node.tree()]} | {node.process.pid for node in nodes}
        for process in processes.below(os.getpid()):
            if process.pid not in mine:
                process.kill()
