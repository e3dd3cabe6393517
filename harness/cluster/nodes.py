"""What all machines of a cluster must have for one study's results, and what is said where one has not."""

import hashlib
import platform
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import extensions
from harness.cluster import shipping
from harness.cluster.workers import Cluster
from harness.errors import HarnessError
from harness.results.cells import hardware
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store

_PACKAGE = Path(__file__).parents[1]  # all of the harness, not this wing alone
_OPTIONAL = {"adversarial-robustness-toolbox", "timm", "torchattacks"}  # few studies use them
_PATIENCE_S = 5  # a shared folder may show a new file late
_ANSWER_S = 120  # for a node to start a process and say what it has


@dataclass(frozen=True)
class Node:
    """A machine, by its own account: ``versions`` of what enters results; whether it sees the driver's.

    ``code``: those of the study's packages from outside that its workers find.
    """

    versions: dict[str, str]
    interfaces: tuple[str, ...]
    sees_results: bool
    code: Mapping[str, shipping.Package] = field(default_factory=dict)


def alive() -> dict[str, str]:
    """Title -> id of the Ray cluster's nodes that are there; Ray lists lost ones as well."""
    import ray

    return {
        f"{node['NodeManagerHostname']} {node['NodeManagerAddress']}": node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
    }


def check_nodes(cluster: Cluster, store: Store, code: Mapping[str, str]) -> None:
    """See that all machines have the driver's versions, its results, and the study's packages from outside.

    ``code``: package -> digest, as it was planned with. Costs nothing where there is but one machine and no
    such package: of one, the workers' path may still be another than the driver's. Raises HarnessError that
    lists what is not so, Moved where the driver's own packages have changed.
    """
    if cluster.local:
        return
    node_ids = alive()
    if len(node_ids) < 2 and not code:
        return
    extensions.must_be(code)
    with store.probe() as probe:
        calls = {title: _ask(node, store, probe, code) for title, node in node_ids.items()}
        driver, others = here(store, probe, code), _answers(calls)
    lines = problems(driver, others, str(store.folder), cluster.interface)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise HarnessError(f"the machines of the Ray cluster can't work on this study together:\n{listed}")


def _ask(node: str, store: Store, probe: str, code: Iterable[str]) -> Any:
    """The reference of what ``here`` will answer on the node with this id."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(here).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return task.remote(store, probe, tuple(code))


def _answers(calls: Mapping[str, Any]) -> dict[str, Node | str]:
    """What each machine says of itself, or what it failed with; all have the same time for it."""
    import ray

    end = time.monotonic() + _ANSWER_S
    answers: dict[str, Node | str] = {}
    for title, call in calls.items():
        try:
            answers[title] = ray.get(call, timeout=max(0.0, end - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            answers[title] = f"no answer within {_ANSWER_S} s"
        except ray.exceptions.RayError as error:
            answers[title] = str(error)
    return answers


def here(store: Store, probe: str, code: Iterable[str]) -> Node:
    """This machine, where ``probe`` is what the driver left in its results, ``code`` what packages are
    wanted.
    """
    facts = hardware()
    # A machine without a GPU has another build of the same version.
    packages = {
        re.sub("-(cpu|gpu)$", "", name): version.split("+")[0]
        for name, version in facts["versions"].items()
        if name not in _OPTIONAL
    }
    python = ".".join(facts["python"].split(".")[:2])
    versions = {"Python": python, "schema": str(SCHEMA_VERSION), **packages, "harness's source": _source()}
    sees_results = _soon(lambda: store.sees_probe(probe))
    return Node(versions, interfaces(), sees_results, shipping.packages(code))


def _soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true within the patience that shared folders need."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)
    return True


def _source() -> str:
    """8 hex digits of the harness's modules: a version number does not tell a changed checkout."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def problems(
    driver: Node, others: Mapping[str, Node | str], results: str, interface: str | None
) -> list[str]:
    """Why other machines can't work on the driver's study, a line each.

    ``others``: a machine's title -> what it says of itself, or what it failed with. ``results``: where the
    driver's are. ``interface``: the one that all are to have, None for any.
    """
    lines = []
    for title, node in others.items():
        reasons = [_failure(node)] if isinstance(node, str) else _problems(driver, node, results, interface)
        lines += [f"{title}: {reason}" for reason in reasons]
    return lines


def _problems(driver: Node, node: Node, results: str, interface: str | None) -> list[str]:
    """Of one machine that answered."""
    reasons = []
    for what in driver.versions | node.versions:
        wanted, there = driver.versions.get(what, "none"), node.versions.get(what, "none")
        if wanted != there:
            reasons.append(f"{what} {there}, but {wanted} where the study was started")
    reasons += shipping.problems(driver.code, node.code)
    if not node.sees_results:
        reasons.append(
            f"the results in '{results}' are not there: name storage that all machines share with --results"
        )
    if interface and interface not in node.interfaces:
        names = ", ".join(node.interfaces)
        reasons.append(f"no network interface '{interface}' (compute.interface), only {names}")
    return reasons


def _failure(error: str) -> str:
    """What Ray says of a task that a machine could not run, in a line."""
    missing = re.search(r"No module named '([^']+)'", error)
    if missing:
        advice = "install the harness there, as cluster.yaml's setup_commands do"
        return f"Python there has no '{missing[1]}': {advice}"
    return error.strip().splitlines()[-1] if error.strip() else "no answer"


def interfaces() -> tuple[str, ...]:
    """The names of this machine's network interfaces."""
    return tuple(name for _, name in socket.if_nameindex())


def interface_of(address: str) -> str | None:
    """The interface that carries an IPv4 address of this machine; None where that can't be found out."""
    if platform.system() != "Linux":
        return None
    import fcntl

    get_address = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in interfaces():
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(probe.fileno(), get_address, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
