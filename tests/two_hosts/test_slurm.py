"""jobs/slurm.sh on Slurm over two machines of this folder's kind: `make slurm-test` makes room and runs this.

Slurm's controller runs on the first of the two nodes; a daemon with one core on each. The results and the
checkout lie on storage that both see.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hosts
import pytest
import yaml
from conftest import snapshot
from hosts import SHARED, Host
from test_two_hosts import facts

SOURCE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slurm

CONFIGURATION = """
ClusterName=test
SlurmctldHost=head({head})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
StateSaveLocation=/tmp/slurm/state
SlurmdSpoolDir=/tmp/slurm/spool
SlurmctldPidFile=/tmp/slurm/slurmctld.pid
SlurmdPidFile=/tmp/slurm/slurmd.pid
SlurmctldLogFile=/tmp/slurm/slurmctld.log
SlurmdLogFile=/tmp/slurm/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=head NodeAddr={head} CPUs=1
NodeName=worker NodeAddr={worker} CPUs=1
PartitionName=main Nodes=ALL Default=YES State=UP
"""
STUDY = {
    "name": "small",
    "dataset": {"source": "digits", "train_limit": 400, "test_limit": 100},
    "network": {"architecture": "convnet", "width": 4},
    "base": {"epochs": 5, "learning_rate": 0.01, "batch_size": 32},
    "attacks": {"fgsm": {"epsilon": [0.1]}, "deepfool": {"steps": 10}},
    "controls": False,
    "checks": {"enabled": False},
    "defenses": {"imperceptible_bound": {"k": [1, 2], "n": [4, 8], "epochs": 2}},
    "white_box": {"epsilon": [0.1], "step_divisors": [4]},
}
VENV = SHARED / "venv"  # its commands, as an installation would have them
RESULTS = SHARED / "results"


@dataclass(frozen=True)
class Nodes:
    head: Host
    worker: Host

    def type(self, command: str) -> str:
        """A command typed at the first node, in the checkout; what it says."""
        variables = (
            f"export SLURM_CONF={SHARED}/slurm.conf VENV={VENV} PYTHONPATH={SHARED}/harness:$PYTHONPATH"
        )
        return self.head.run(f"cd {SHARED}/harness && {variables} && {command}").stdout

    def submit(self, variables: str = "") -> str:
        """The study, once more: the job's number."""
        given = f"jobs/slurm.sh {SHARED}/small.yaml --results {RESULTS}"
        said = self.type(f"{variables} sbatch --output={SHARED}/job-%j.out --time=20 {given}")
        return re.search(r"Submitted batch job (\d+)", said)[1]

    def said(self, job: str) -> str:
        """What a job has printed so far."""
        path = SHARED / f"job-{job}.out"
        return path.read_text() if path.exists() else ""

    def wait(self, job: str, condition: Callable[[], object], seconds: float = 300) -> None:
        """Until something is so; AssertionError with what the job said where it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.type('squeue; sinfo -N')}\n{self.said(job)}"
            time.sleep(0.5)

    def wait_for_end(self, job: str) -> None:
        self.wait(job, lambda: not self.type("squeue --noheader").strip())

    def left(self) -> list[str]:
        """Processes and files of Ray on both nodes."""
        found = (
            "ps -A -o args= | grep -E 'raylet|gcs_server|ray start' | grep -v grep; ls -d /tmp/ray-* || true"
        )
        outputs = [
            host.run(f"({found}) 2>/dev/null", check=False).stdout for host in (self.head, self.worker)
        ]
        return [line for output in outputs for line in output.splitlines()]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes with Slurm up and running."""
    hosts.furnish()
    head, worker = (hosts.start(name, number) for name, number in (("head", 10), ("worker", 11)))
    hosts.check_out(SOURCE, head)
    (head.home / "harness").rename(SHARED / "harness")
    (VENV / "bin").mkdir(parents=True)
    for name, module in {"harness": "-m harness.cli", "ray": "-m ray.scripts.scripts", "python": ""}.items():
        (VENV / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python {module} "$@"\n')
        (VENV / "bin" / name).chmod(0o755)
    configuration = CONFIGURATION.format(head=head.address, worker=worker.address)
    (SHARED / "slurm.conf").write_text(configuration)
    (SHARED / "small.yaml").write_text(yaml.safe_dump(STUDY))
    daemons = f"mkdir -p /tmp/slurm/state && export SLURM_CONF={SHARED}/slurm.conf"
    head.run(f"{daemons} && slurmctld -i && slurmd -N head")
    worker.run(f"{daemons} && slurmd -N worker")
    made = Nodes(head, worker)
    made.wait("", lambda: made.type("sinfo --noheader --Node").count("idle") == 2, seconds=60)
    yield made
    for host in (worker, head):
        host.run("pkill slurmd; pkill slurmctld", check=False)


def test_a_job_that_is_stopped_and_cancelled_goes_on_when_it_is_submitted_again(nodes: Nodes) -> None:
    """Asked to stop as before a time limit, then cancelled; the third has the values of one process."""
    command = [sys.executable, "-m", "harness.cli", "run", str(SHARED / "small.yaml"), "--workers", "0"]
    alone = subprocess.run(
        [*command, "--results", str(SHARED / "alone")], cwd=SOURCE, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr

    first = nodes.submit("INTERFACE=to-head")
    nodes.wait(first, lambda: [*RESULTS.glob("bound/**/*.parquet")])
    nodes.type(f"scancel --batch --signal=TERM {first}")
    nodes.wait_for_end(first)
    assert "stopped: what is finished stays" in nodes.said(first)
    assert nodes.left() == []

    second = nodes.submit()
    nodes.wait(second, lambda: [*RESULTS.glob("training/**/*.parquet")])
    nodes.type(f"scancel {second}")
    nodes.wait_for_end(second)
    assert "cells made" not in nodes.said(second)
    nodes.wait(second, lambda: not [line for line in nodes.left() if not line.startswith("/tmp/")])

    third = nodes.submit()
    nodes.wait_for_end(third)
    assert "cells made" in nodes.said(third), nodes.said(third)
    assert "compute.nodes: 2 nodes" in nodes.said(first) + nodes.said(second) + nodes.said(third)
    two, one = snapshot(RESULTS), snapshot(SHARED / "alone")
    assert two.keys() == one.keys()
    assert [path for path in two if two[path] != one[path]] == []
    assert {fact["host"] for fact in facts(RESULTS)} == {"head", "worker"}


def test_a_mistake_is_told_and_nothing_of_ray_stays(nodes: Nodes) -> None:
    job = f"sbatch --wait --output={SHARED}/mistake.out jobs/slurm.sh quick --set dataset.sauce=1"
    said = nodes.type(f"{job} || echo failed")
    assert said.endswith("failed\n")
    assert "did you mean 'source'" in (SHARED / "mistake.out").read_text()
    assert nodes.left() == []
