"""What every machine of a cluster must have for their results to be one study's, and what is said where one has not."""

import hashlib
import platform
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cells import hardware
from harness.records import SCHEMA_VERSION
from harness.store import Store

_PATIENCE_S = 5  # a shared folder may show a new file late


@dataclass(frozen=True)
class Node:
    """A machine, by its own account: ``versions`` of what enters results; whether the driver's results are there."""

    versions: dict[str, str]
    interfaces: tuple[str, ...]
    sees_results: bool


def here(store: Store, probe: str) -> Node:
    """This machine, where ``probe`` is what the driver left in its results."""
    facts = hardware()
    # A machine without a GPU has another build of the same version.
    packages = {
        re.sub("-(cpu|gpu)$", "", name): version.split("+")[0] for name, version in facts["versions"].items()
    }
    python = ".".join(facts["python"].split(".")[:2])
    versions = {"Python": python, "schema": str(SCHEMA_VERSION), **packages, "harness's source": _source()}
    return Node(versions, interfaces(), _soon(lambda: store.sees_probe(probe)))


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _source() -> str:
    """8 hex digits of this package's modules: a version number does not tell a changed checkout."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def obstacles(driver: Node, others: dict[str, Node | str], results: str, interface: str | None) -> list[str]:
    """Why other machines can't work on the driver's study, a line each; a machine is a Node, or what it failed with."""
    lines = []
    for name, node in others.items():
        if isinstance(node, str):
            lines.append(f"{name}: {_failure(node)}")
            continue
        for what in driver.versions | node.versions:
            mine, its = (versions.get(what, "none") for versions in (driver.versions, node.versions))
            if mine != its:
                lines.append(f"{name}: {what} {its}, but {mine} where the study was started")
        if not node.sees_results:
            lines.append(
                f"{name}: the results in '{results}' are not there: name storage that all machines share with --results"
            )
        if interface and interface not in node.interfaces:
            lines.append(
                f"{name}: no network interface '{interface}' (compute.interface), only {', '.join(node.interfaces)}"
            )
    return lines


def _failure(error: str) -> str:
    """What Ray says of a task that a machine could not run, in a line."""
    missing = re.search(r"No module named '([^']+)'", error)
    if missing:
        return f"Python there has no '{missing[1]}': install the harness there, as cluster.yaml's setup_commands do"
    return error.strip().splitlines()[-1] if error.strip() else "no answer"


def interfaces() -> tuple[str, ...]:
    """The names of this machine's network interfaces."""
    return tuple(name for _, name in socket.if_nameindex())


def interface_of(address: str) -> str | None:
    """The interface that carries an IPv4 address of this machine; None where that can't be found out."""
    if platform.system() != "Linux":
        return None
    import fcntl

    asked = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in interfaces():
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(probe.fileno(), asked, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
