"""`python tests/two_hosts`: make room for the machines of test_two_hosts.py and run it there.

`python tests/two_hosts test_slurm.py` does so for another file of this folder.

The room is a set of Linux namespaces (mounts, network, processes) in which pytest is the first process: when
it ends, or this one does, whatever the reason, the kernel ends all of its processes and drops its network and
mounts, and with them every file written there. On the machine itself nothing changes but the Debian packages
that were missing.

Where that cannot be done it says why and ends with exit code 0. Arguments are passed on to pytest.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from hosts import ROOM, covered

TOOLS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "ss": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
NEEDED = {"test_slurm.py": ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue")}
NAMESPACES = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
POLICY = Path("/usr/sbin/policy-rc.d")


def obstacle(tests: str) -> str | None:
    """Why there can be no such machines here, or not what a file of tests needs beside them, or None."""
    if not sys.platform.startswith("linux"):
        return f"needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if not ROOM.is_dir():
        return f"needs the folder {ROOM}, to cover it"
    for what, path in (("Python", sys.base_prefix), ("the environment", sys.prefix)):
        if covered(path):
            return f"{what} lies in {path}, which the machines cover"
    lacking = [tool for tool in NEEDED.get(tests, ()) if not shutil.which(tool)]
    if lacking:
        return f"needs {', '.join(lacking)}, which Debian's slurm-wlm has"
    # A link tried in a namespace: all that is needed but the bridge, and it is gone with the shell.
    links = "ip link add wire type bridge && ip link add one type veth peer name two"
    trial = f"mount -t tmpfs tmpfs {ROOM} && {links}"
    missing = install()
    if missing:
        return missing
    tried = subprocess.run(["unshare", *NAMESPACES, "sh", "-c", trial], capture_output=True, text=True)
    return f"namespaces are not to be had: {tried.stderr.strip()}" if tried.returncode else None


def install() -> str | None:
    """The tools that are missing, from the distribution; what is in the way, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)})
    if not packages:
        return None
    if not shutil.which("apt-get"):
        return f"needs {', '.join(packages)}, and there is no apt-get to install them"
    with no_services():
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", "-qq", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
    return (
        f"needs {', '.join(packages)}, and apt-get failed: {done.stderr.strip()[-300:]}"
        if done.returncode
        else None
    )


@contextmanager
def no_services():
    """An ssh server that is installed must not start on this machine itself."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> int:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    tests = next((argument for argument in sys.argv[1:] if argument.endswith(".py")), "test_two_hosts.py")
    reason = obstacle(tests)
    if reason:
        print(f"{tests} skipped: {reason}")
        return 0
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as wheels:
        # The machines have no way out: what builds the harness there is fetched here.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "download",
            "--no-deps",
            "--dest",
            wheels,
        ]
        subprocess.run([*pip, "setuptools>=77"], check=True)
        # Read into the room before the test covers what it likes.
        inside = f'mount -t tmpfs -o mode=755 tmpfs {ROOM} && mv {wheels} {ROOM}/wheels && exec "$@"'
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            str(here / tests),
            *(argument for argument in sys.argv[1:] if argument != tests),
        ]
        room = subprocess.Popen(
            ["unshare", *NAMESPACES, "sh", "-ec", inside, "sh", *pytest],
            cwd=here.parent.parent, env={**os.environ, "HARNESS_TWO_HOSTS": "1"}, preexec_fn=die_with_parent,
        )  # fmt: skip
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        before = traces()
        try:
            code = room.wait()
        except KeyboardInterrupt:
            code = 130
            with suppress(subprocess.TimeoutExpired):
                room.wait(timeout=30)  # pytest got it as well, and says how far it was
        finally:
            room.kill()  # --kill-child ends the first process of the room, and the kernel all others
            room.wait()
        left = traces() - before
        if left:
            print("left behind:", *sorted(left), sep="\n  ")
        return code or bool(left)


def traces() -> set[str]:
    """What the machines could leave on this one: files, mounts, links."""
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    links = {name for name in os.listdir("/sys/class/net") if name == "wire" or name.startswith("to-")}
    return set(map(str, ROOM.rglob("*"))) | {mount for mount in mounts if mount.startswith(f"{ROOM}")} | links


if __name__ == "__main__":
    sys.exit(main())
