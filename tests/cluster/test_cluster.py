"""Spreading work: results by position whatever the number of workers; crashes repeated; errors told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.cluster.connection import connect
from harness.cluster.workers import Cluster
from harness.errors import HarnessError
from harness.study.compute import ComputeSpec


def build(values, factor):
    return values * factor


def run(state, task):
    return state[task] + os.getpid() * 0


def fail(state, task):
    if task == 3:
        raise HarnessError("image 3 is truncated")
    return task


def crash_once(state, task):
    """Kill this process at task 4, the first time only."""
    marker = Path(state)
    if task == 4 and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), 9)
    time.sleep(0.01)
    return task * task


def crash_at_two(state, task):
    if task == 2:
        os.kill(os.getpid(), 9)
    return task


def same(state):
    return state


VALUES = np.arange(20)


def test_here():
    with connect(ComputeSpec(workers=0)) as cluster:
        assert cluster.local
        assert dict(cluster.map(build, (cluster.share(VALUES), 3), run, list(range(20)))) == {
            i: 3 * i for i in range(20)
        }
        assert dict(cluster.map(build, (VALUES, 3), run, [])) == {}
        only_three_fails(cluster)


@pytest.mark.parametrize(
    ("workers", "gpus", "share"),
    [(2, 0, 0), (1, 1, 1), (2, 4, 1), (3, 2, 1 / 2), (6, 1, 1 / 6), (5, 2, 1 / 3)],
)
def test_every_worker_finds_its_share_of_a_gpu(workers, gpus, share):
    found = Cluster(workers, cores=8, gpus=gpus, retries=0, local=False).gpu_share
    assert found == pytest.approx(share)
    if gpus:
        assert gpus * int(1 / found + 1e-9) >= workers


def test_ray_is_imported_where_it_is_used():
    """It takes seconds, and a study in this process alone needs none of it."""
    code = "import sys, harness.cluster.connection, harness.cluster.sweep; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 3])
def test_over_actors(ray_session, workers):
    with connect(ComputeSpec(workers=workers)) as cluster:
        found = dict(cluster.map(build, (cluster.share(VALUES), 3), run, list(range(20))))
    assert found == {i: 3 * i for i in range(20)}


@pytest.mark.ray
def test_a_task_that_fails_leaves_the_others_alone(ray_session):
    with connect(ComputeSpec(workers=2)) as cluster:
        only_three_fails(cluster)


def only_three_fails(cluster):
    found = dict(cluster.map(same, (0,), fail, list(range(6))))
    failed = found.pop(3)
    assert found == {i: i for i in range(6) if i != 3}
    assert failed.reason == "image 3 is truncated"
    assert "Traceback" in failed.detail


@pytest.mark.ray
def test_what_building_a_worker_raises_is_raised_here(ray_session):
    with connect(ComputeSpec(workers=2)) as cluster, pytest.raises(HarnessError, match="image 3"):
        list(cluster.map(fail, (0, 3), run, [1, 2]))


@pytest.mark.ray
def test_a_crashed_worker_repeats_its_task(ray_session, tmp_path):
    with connect(ComputeSpec(workers=2)) as cluster:
        found = dict(cluster.map(same, (str(tmp_path / "crashed"),), crash_once, list(range(10))))
    assert (tmp_path / "crashed").exists()
    assert found == {i: i * i for i in range(10)}


def met(folder, task):
    """The process that did the task, once two have met in the folder: each has a task then."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return os.getpid()


@pytest.mark.ray
def test_workers_are_kept_for_other_work(ray_session, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    with connect(ComputeSpec(workers=2)) as cluster:
        first, second, third = ((Path, (str(folder),), met, list(range(6))) for folder in folders)
        one, other = set(dict(cluster.map(*first)).values())
        assert set(dict(cluster.map(*second)).values()) == {one, other}
        assert {int(path.name) for path in folders[1].iterdir()} == {one, other}  # the second state
        os.kill(one, signal.SIGKILL)
        last = set(dict(cluster.map(*third)).values())
        assert len(last) == 2 and other in last and one not in last
        cluster.release()
        assert ended(other)
        assert dict(cluster.map(same, (2,), run_square, [3])) == {0: 9}


@pytest.mark.ray
def test_what_failed_to_build_is_not_kept(ray_session):
    with connect(ComputeSpec(workers=1, retries=0)) as cluster:
        with pytest.raises(HarnessError, match="image 3"):
            list(cluster.map(fail, (0, 3), run, [1, 2]))
        assert dict(cluster.map(same, (0,), run_square, [3])) == {0: 9}


def run_square(state, task):
    return task * task


def ended(pid, within_s=30):
    until = time.monotonic() + within_s
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.1)
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.ray
def test_a_task_that_always_crashes_is_given_up_alone(ray_session):
    """Those queued behind it on the same worker are not blamed."""
    with connect(ComputeSpec(workers=1, retries=1)) as cluster:
        found = dict(cluster.map(same, (0,), crash_at_two, list(range(6))))
    assert "crashed 2 times" in found.pop(2).reason
    assert found == {i: i for i in range(6) if i != 2}


@pytest.mark.ray
def test_more_workers_than_cores(ray_session):
    with pytest.raises(HarnessError, match="99 workers need a core each, the Ray cluster has 4"):
        with connect(ComputeSpec(workers=99, wait_s=0)):
            pass


@pytest.mark.ray
def test_nodes_that_do_not_come(ray_session, capsys):
    with pytest.raises(
        HarnessError,
        match=r"2 nodes are asked for, the Ray cluster has 1 \(.*\); waited 0.1 s \(compute.wait_s\)",
    ):
        with connect(ComputeSpec(nodes=2, wait_s=0.1)):
            pass
    assert capsys.readouterr().err.count("waiting for the Ray cluster, 0 of at most 0.1 s") == 1


def test_a_private_ray_waits_for_nobody(tmp_path):
    """No machine will join it. Its token, which Ray would let all users read, is the user's own."""
    script = "from harness.cluster.connection import connect; from harness.study.compute import ComputeSpec\n"
    script += "with connect(ComputeSpec(nodes=2)): pass"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {
        "RAY_ADDRESS": "",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "HarnessError: compute.nodes: 2 nodes are asked for, the Ray cluster has 1" in done.stderr
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    assert list(token.parent.iterdir()) == [token]


HOLD = """
import sys, time, ray
from pathlib import Path
from harness.cluster.connection import connect
from harness.study.compute import ComputeSpec
with connect(ComputeSpec()) as cluster:
    Path(sys.argv[1]).write_text(ray.get_runtime_context().gcs_address)
    while len(sys.argv) > 2 and not Path(sys.argv[2]).exists():
        time.sleep(0.1)
"""


def test_two_drivers_of_one_machine_do_not_share_a_private_ray(tmp_path):
    """The second would lose its work when the first ends, and each could wait for the other's cores."""
    environment = {**os.environ, "RAY_ADDRESS": ""}
    first, second, end = (tmp_path / name for name in ("first", "second", "end"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(first), str(end)], env=environment)
    while not first.exists():
        assert holder.poll() is None
        time.sleep(0.1)
    try:
        subprocess.run([sys.executable, "-c", HOLD, str(second)], env=environment, check=True, timeout=120)
    finally:
        end.write_text("")
        holder.wait()
    assert first.read_text() != second.read_text()


@pytest.mark.ray
def test_a_worker_that_finds_no_core_holds_nothing_up(ray_session):
    """Two of the four cores are taken by someone else: the two workers that fit do all the work."""
    import ray

    taken = [ray.remote(Taker).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([one.hold.remote() for one in taken])
    with connect(ComputeSpec(workers=4)) as cluster:
        found = dict(cluster.map(build, (VALUES, 3), run, list(range(20))))
    assert found == {i: 3 * i for i in range(20)}
    for one in taken:
        ray.kill(one)


class Taker:
    """Takes a core."""

    def hold(self):
        return True
