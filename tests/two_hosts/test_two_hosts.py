"""A cluster of two machines, used as docs/cluster.md says: `make cluster-test` makes room and runs this.

The machine it is typed at is a third one, the laptop. cluster.yaml is the repository's but for the lines that
a user changes and one core for each machine, so that work must spread.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import snapshot
from hosts import SHARED, Host
from outside import ATTACK, DEFENSE, NETWORK
from safetensors.torch import save_file

from harness.networks.build import build
from harness.networks.convnet import ConvNet

SOURCE = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.cluster

OWN_STUDY = """
name: own
dataset: {source: digits, train_limit: 120, test_limit: 40}
network: {use: "mine.nets:linear", settings: {width: 6}}
base: {epochs: 2, learning_rate: 0.01, batch_size: 32}
attacks: {noise: {use: "mine.attacks:noise", settings: {epsilon: [0.1, 0.3]}}}
defenses: {smooth: {use: "mine.defenses:smooth", settings: {epsilon: 0.1, copies: [1, 2]}, epochs: 1}}
models: {theirs: {architecture: convnet, width: 2, weights: theirs.safetensors}}
batch_size: 4
controls: false
white_box: {epsilon: [0.1], step_divisors: [4], steps: 3, attacks: [noise]}
"""


@dataclass(frozen=True)
class Machines:
    laptop: Host
    head: Host
    worker: Host
    alone: "subprocess.Popen[str]"  # the same study on one machine, started while the cluster comes up

    def type(
        self, command: str, timeout_s: float = 600, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """A command at the laptop, in the checkout, with the environment that has the ray command."""
        return self.laptop.run(
            f"cd ~/harness && export PATH={sys.prefix}/bin:$PATH && {command}", timeout_s, check
        )

    def tasks(self) -> dict[str, set[str]]:
        """Name of a task -> the machines on which Ray saw it finish, in any job so far."""
        inside = (
            "RAY_AUTH_MODE=token ~/harness-venv/bin/python -m ray.scripts.scripts list {} "
            "--detail --format json --limit 10000"
        )
        nodes, tasks = (json.loads(self.head.run(inside.format(what)).stdout) for what in ("nodes", "tasks"))
        names = {self.head.address: "head", self.worker.address: "worker"}
        where = {node["node_id"]: names[node["node_ip"]] for node in nodes}
        found: dict[str, set[str]] = {}
        for task in tasks:
            if task["state"] == "FINISHED" and task["node_id"]:
                found.setdefault(task["name"], set()).add(where[task["node_id"]])
        return found


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """The machines, with Ray up and running."""
    command = [sys.executable, "-m", "harness.cli", "run", "quick", "--workers", "0"]
    alone = subprocess.Popen(
        [*command, "--results", f"{SHARED}/alone"],
        cwd=SOURCE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    hosts.furnish()
    laptop, head, worker = (
        hosts.start(name, number) for name, number in (("laptop", 9), ("head", 10), ("worker", 11))
    )
    hosts.let_in(laptop, head, worker)
    hosts.check_out(SOURCE, laptop)
    made = Machines(laptop, head, worker, alone)
    config = laptop.home / "harness/cluster.yaml"
    text = config.read_text()
    for there, here in {
        "head_ip: 192.0.2.10": f"head_ip: {head.address}",
        "worker_ips: [192.0.2.11, 192.0.2.12]": f"worker_ips: [{worker.address}]",
        "ssh_user: ubuntu": "ssh_user: root",
        " ray start ": " ray start --num-cpus=1 ",
    }.items():
        assert there in text, f"cluster.yaml says no longer '{there}'"
        text = text.replace(there, here)
    config.write_text(text)
    made.type("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    made.type("ray up -y cluster.yaml")
    yield made
    alone.kill()
    made.type("ray down -y cluster.yaml")
    assert "raylet" not in head.run("ps -A -o args=").stdout


def facts(results: Path) -> list[dict[str, Any]]:
    """Where and with what each cell was made."""
    return [
        json.loads(pq.read_schema(path).metadata[b"harness"])["facts"] for path in results.rglob("*.parquet")
    ]


def title(results: Path) -> str:
    """Of the data set, as the only study there was given it."""
    (record,) = (results / "studies").glob("*.json")
    return json.loads(record.read_text())["study"]["dataset"]["title"]


def test_the_study_of_two_machines_is_that_of_one(machines: Machines) -> None:
    """Submitted at once: the job waits for the worker, which joins some time after `ray up` is back."""
    done = machines.type(
        f"ray submit cluster.yaml jobs/study.py -- --study quick --results {SHARED}/two --set compute.nodes=2"
    )
    assert "252 cells made" in done.stdout
    said, _ = machines.alone.communicate(timeout=900)
    assert machines.alone.returncode == 0, said
    two, one = snapshot(SHARED / "two"), snapshot(SHARED / "alone")
    assert two.keys() == one.keys()
    assert [path for path in two if two[path] != one[path]] == []
    tasks = machines.tasks()
    assert tasks["_Holder.call"] | tasks["ResourceTrainable.train"] == {"head", "worker"}
    assert {fact["host"] for fact in facts(SHARED / "two")} <= {"head", "worker"}


def test_one_training_over_two_machines(machines: Machines) -> None:
    """DDP with a rank on each; their host names resolve to loopback, on which they would not find each other.

    Mappings with spaces arrive whole; texts do where they are quoted for the second shell as well.
    """
    settings = (
        '--set "network={architecture: convnet, width: 4}" --set base.epochs=2 --set dataset.train_limit=200'
    )
    settings += """ --set "'dataset.title=two words'" """
    command = "ray submit cluster.yaml jobs/base_network.py -- quick "
    command += f"{settings} --set base.workers=2 --results {SHARED}/ddp"
    machines.type(command)
    (path,) = (SHARED / "ddp").rglob("*.parquet")
    assert pq.read_table(path, partitioning=None)["world_size"].to_pylist() == [2, 2, 2]
    assert machines.tasks()["Rank.epoch"] == {"head", "worker"}
    assert title(SHARED / "ddp") == "two words"


def test_a_job_with_its_working_directory(machines: Machines) -> None:
    """The checkout as it is now, not as it was installed, is what all machines run; quoted arguments arrive
    whole.
    """
    checkout = machines.laptop.home / "harness"
    presets = checkout / "harness/study/presets"
    (presets / "mine.yaml").write_text((presets / "quick.yaml").read_text())
    with (checkout / "harness/errors.py").open("a") as file:
        file.write("# changed since it was installed\n")
    machines.type(f"ssh -o StrictHostKeyChecking=no -fN -L 8265:127.0.0.1:8265 {machines.head.address}")
    submit = "ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/bound.py mine"
    done = machines.type(
        f'RAY_AUTH_MODE=token {submit} --set "dataset.title=two words" --results {SHARED}/job'
    )
    assert "4 cells made" in done.stdout and "succeeded" in done.stdout
    assert title(SHARED / "job") == "two words"
    failed = machines.type(f"RAY_AUTH_MODE=token {submit} --set dataset.sauce=digits", check=False)
    assert failed.returncode == 1 and "did you mean 'source'" in failed.stdout


def test_own_code_of_one_machine_reaches_the_other(machines: Machines) -> None:
    """It lies where the driver runs alone; what is changed there is sent anew to the same Ray cluster."""
    package = machines.head.home / "own/mine"
    package.mkdir(parents=True)
    submit = f"ray submit cluster.yaml tests/two_hosts/own_code.py -- --code '~/own' {SHARED}/own"
    for text in ("VALUE = 1\n", "VALUE = 2\n"):
        (package / "__init__.py").write_text(text)
        said = machines.type(submit).stdout
        last = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        assert last == {"head": text, "worker": text}
    machines.head.run("cp -r ~/own/mine ~/harness-venv/lib/python3*/site-packages/")
    failed = machines.type(submit.replace("--code '~/own'", ""), check=False)
    assert failed.returncode == 1
    said = " ".join(failed.stdout.split())
    assert f"worker {machines.worker.address}: its workers find no package 'mine'" in said
    assert f"head {machines.head.address}:" not in said


def test_a_study_of_own_code(machines: Machines) -> None:
    """Code and weights lie on the head alone: the values are those of a run there without Ray."""
    home = machines.head.home
    package = home / "own/mine"
    package.mkdir(parents=True, exist_ok=True)
    for name, source in {"nets": NETWORK, "attacks": ATTACK, "defenses": DEFENSE}.items():
        (package / f"{name}.py").write_text(source)
    (home / "own.yaml").write_text(OWN_STUDY)
    weights = build(ConvNet(width=2), np.zeros((1, 1, 8, 8), np.uint8), 10, 0).body.state_dict()
    save_file(weights, home / "theirs.safetensors")
    study = "~/own.yaml --code ~/own --set models.theirs.weights=$HOME/theirs.safetensors"
    done = machines.type(
        f"ray submit cluster.yaml jobs/study.py -- '{study} --results {SHARED}/own-study "
        "--set compute.nodes=2 --set compute.workers=2'"
    )
    assert "cells made" in done.stdout and "failed" not in done.stdout
    machines.head.run(f"~/harness-venv/bin/harness run {study} --workers 0 --results {SHARED}/own-alone")
    assert snapshot(SHARED / "own-study") == snapshot(SHARED / "own-alone")


def test_machines_that_differ_are_told_before_work_starts(machines: Machines) -> None:
    source = machines.worker.home / "harness-source/harness/errors.py"
    kept = source.read_text()
    source.write_text(kept + "# an older checkout\n")
    submit = "ray submit cluster.yaml jobs/bound.py -- quick"
    failed = machines.type(f"{submit} --results /tmp/here", check=False)
    source.write_text(kept)
    assert failed.returncode == 1
    said = " ".join(failed.stdout.split())
    assert f"worker {machines.worker.address}: harness's source" in said
    assert f"worker {machines.worker.address}: the results in '/tmp/here' are not there" in said
    assert f"head {machines.head.address}:" not in said
    machines.worker.run("~/harness-venv/bin/python -m pip uninstall -qy harness")
    failed = machines.type(f"{submit} --results {SHARED}/none", check=False)
    assert failed.returncode == 1
    assert f"worker {machines.worker.address}: Python there has no 'harness': install" in " ".join(
        failed.stdout.split()
    )


def test_a_machine_that_never_comes(machines: Machines) -> None:
    command = f"ray submit cluster.yaml jobs/bound.py -- quick --results {SHARED}/none "
    command += "--set compute.nodes=3 --set compute.wait_s=2"
    failed = machines.type(command, check=False)
    assert failed.returncode == 1
    said = " ".join(failed.stdout.split())
    assert "waiting for the Ray cluster, 0 of at most 2 s (compute.wait_s)" in said
    assert "compute.nodes: 3 nodes are asked for, the Ray cluster has" in said


def test_nobody_gets_in_without_the_token(machines: Machines) -> None:
    for host in (machines.head, machines.worker):
        assert host.run("stat -c %a ~/.ray/auth_token").stdout == "600\n"
    code = "from urllib.request import urlopen; urlopen('http://127.0.0.1:8265/api/jobs/', timeout=20)"
    ask = f'python3 -c "{code}"'
    assert "HTTP Error 401" in machines.head.run(ask, check=False).stdout
    assert (
        "Connection refused"
        in machines.worker.run(ask.replace("127.0.0.1", machines.head.address), check=False).stdout
    )
    # A machine of the network with another token, or none.
    code = f"import ray; ray.init(address='{machines.head.address}:6379', log_to_driver=False); print('in')"
    connect = f'python3 -c "{code}"'
    for token in ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64}"):
        refused = machines.worker.run(f"{token} {connect}", check=False)
        assert refused.returncode != 0 and not refused.stdout.endswith("in\n"), refused.stdout


def test_what_listens(machines: Machines) -> None:
    """The list of docs/cluster.md: the dashboard and what manages jobs on loopback or the node's address,
    Ray's own services anywhere.
    """
    listening: dict[str, set[str]] = {}
    for line in machines.head.run("ss -Hltnp").stdout.splitlines():
        _, _, _, local, _, *process = line.split()
        address, _, port = local.rpartition(":")
        listening.setdefault(port, set()).add(address.removeprefix("[::ffff:").rstrip("]"))
        assert process, line
    assert listening["8265"] == {"127.0.0.1"}
    assert listening["6379"] == {"*"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.sep)
