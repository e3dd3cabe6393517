"""A job: package ``mine`` is sent to all machines of the cluster, and each says what is in it.

ray submit cluster.yaml tests/two_hosts/own_code.py -- --code FOLDER RESULTS
"""

import json
import socket
from pathlib import Path

import click

from harness import extensions
from harness.cli.options import code_option
from harness.cluster import nodes
from harness.cluster.connection import connect
from harness.errors import HarnessError
from harness.results.store import Store
from harness.study.compute import ComputeSpec


def text() -> tuple[str, str]:
    """The name of this machine, and the package's only file."""
    import mine

    return socket.gethostname(), Path(mine.__file__).read_text()


@click.command()
@code_option
@click.argument("results")
def main(results: str) -> None:
    code = {"mine": extensions.digest("mine")}
    try:
        with connect(ComputeSpec(nodes=2), code) as cluster:
            nodes.check_nodes(cluster, Store(results).open(), code)
            print(json.dumps(dict(_everywhere())))
    except HarnessError as error:
        raise SystemExit(str(error)) from None


def _everywhere() -> list[tuple[str, str]]:
    """What each machine says."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    calls = []
    for node in nodes.alive().values():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        calls.append(ray.remote(text).options(num_cpus=0, scheduling_strategy=there).remote())
    return ray.get(calls)


if __name__ == "__main__":
    main()
