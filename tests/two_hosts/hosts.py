"""Machines for a test: each has its own address, host name, processes, temporary folder, home and ssh server.

They are Linux namespaces below the calling process's own, which must have been made for them (see
``__main__``): when it ends, however it ends, the kernel takes processes, network, mounts and the files on
them away. What is real: ssh, rsync, the network between the machines, the processes. What they share with
this machine: its kernel, its cores, the Python interpreter and, read only in effect, the packages installed
for it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

ROOM = Path("/srv")  # covered by a file system in memory, in this process's own mount namespace
HOME = ROOM / "home"  # every machine's home, each its own
SHARED = ROOM / "shared"  # storage that all machines see
PACKAGES = ROOM / "packages"  # what pip has installed here, without the harness
WHEELS = ROOM / "wheels"  # what pip may install there beside it
SCRIPTS = ROOM / "scripts"  # the packages' commands, which pip would have put into the environment
NETWORK = "192.0.2"  # for documentation (RFC 5737): no real machine has such an address

_SSHD = """
HostKey {folder}/ssh_host_key
PermitRootLogin prohibit-password
AuthorizedKeysFile {home}/.ssh/authorized_keys
UsePAM no
Subsystem sftp internal-sftp
MaxStartups 100
"""

# What a user of such a machine has set up: where Python is. pip finds what is installed here and may not
# download.
_PROFILE = """
export PATH={python}:{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH={packages}
export PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels} PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
"""

# A host name that resolves to loopback is what Debian and Ubuntu install, and what gloo stumbles on.
_START = """
set -e
mount --bind {folder}/home {home}
mount --bind {folder}/tmp /tmp
mount --bind {folder}/run /run
mount -t tmpfs tmpfs /dev/shm
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/hosts /etc/hosts
hostname {name}
ip link set lo up
while ! ip link show {link} >/dev/null 2>&1; do sleep 0.1; done
ip address add {address}/24 dev {link}
ip link set {link} up
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""


@dataclass(frozen=True)
class Host:
    """A machine that runs."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        """Of the machine's first process, as this process sees it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    @property
    def home(self) -> Path:
        """The machine's home, seen from here."""
        return ROOM / self.name / "home"

    def run(
        self, command: str, timeout_s: float = 120, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """A command typed at this machine in a login shell; AssertionError with all that it said where it
        fails.
        """
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--pid", f"--wd={HOME}"]
        environment = {"HOME": str(HOME), "USER": "root", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*entered, "bash", "--login", "-c", command], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_s,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{self.name}$ {command}\n{done.stdout}\nexit code {done.returncode}"
        )
        return done


def furnish() -> None:
    """The shared part of the room, and the wire between the machines."""
    for folder in (HOME, SHARED, PACKAGES, SCRIPTS):
        folder.mkdir(parents=True)
    for kind in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(kind)).iterdir():
            link = PACKAGES / entry.name
            if not (
                entry.name.startswith(("harness", "__editable__"))
                or entry.suffix in (".pth", ".egg-link")
                or link.is_symlink()
            ):
                link.symlink_to(entry)
    (SCRIPTS / "ray").write_text('#!/bin/sh\nexec python -m ray.scripts.scripts "$@"\n')
    (SCRIPTS / "ray").chmod(0o755)
    _shell("ip link set lo up; ip link add wire type bridge; ip link set wire up")


def start(name: str, number: int) -> Host:
    """Start a machine with an address of its own."""
    folder, address, link = ROOM / name, f"{NETWORK}.{number}", f"to-{name}"
    for inner in ("home/.ssh", "tmp", "run/sshd"):
        (folder / inner).mkdir(parents=True)
    (folder / "home/.ssh").chmod(0o700)
    (folder / "tmp").chmod(0o1777)
    (folder / "passwd").write_text(
        f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder, home=HOME))
    profile = _PROFILE.format(
        python=Path(sys.base_prefix, "bin"), scripts=SCRIPTS, packages=PACKAGES, wheels=WHEELS
    )
    (folder / "home/.profile").write_text(profile)
    _shell(f"ssh-keygen -q -t ed25519 -N '' -f {folder}/ssh_host_key")
    script = _START.format(folder=folder, home=HOME, name=name, link=link, address=address)
    namespaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    host = Host(name, address, process)
    _wait(lambda: host.pid > 0, "its first process")
    _shell(
        f"ip link add {link} type veth peer name {link}-0; ip link set {link}-0 master wire up; "
        f"ip link set {link} netns {host.pid}"
    )
    _wait(lambda: "0.0.0.0:22" in host.run("ss -ltn", check=False).stdout, f"the ssh server of {name}")
    return host


def let_in(host: Host, *others: Host) -> None:
    """Make a key for a machine with which it may log in on others."""
    host.run("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    key = (host.home / ".ssh/id_ed25519.pub").read_text()
    for other in others:
        (other.home / ".ssh/authorized_keys").write_text(key)


def check_out(source: Path, host: Host) -> None:
    """A copy of the source tree in the machine's home, as a clone of it would be."""
    left_out = (".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", "mlflow.db", "mlruns")
    ignored = shutil.ignore_patterns(*left_out)
    shutil.copytree(source, host.home / "harness", symlinks=True, ignore=ignored)


def _shell(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True, stdin=subprocess.DEVNULL)


def _wait(condition, what: str, seconds: float = 30) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, IndexError):
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up within {seconds:g} s")
        time.sleep(0.1)


def covered(path: str) -> bool:
    """Whether a machine's own folders hide a path of this one's."""
    return any(os.path.realpath(path).startswith(f"{folder}/") for folder in ("/tmp", "/run", "/srv"))
