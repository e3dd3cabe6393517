"""What NVIDIA's driver says of this machine: asked without torch, which may not be built for it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

_ANSWER_S = 60  # a driver that is loaded for each call, without a daemon, takes seconds a GPU


@dataclass(frozen=True)
class Driver:
    """A driver that answers: its ``version``, such as '580.95.05', and the names of its ``gpus``."""

    version: str
    gpus: tuple[str, ...]


@cache
def driver() -> Driver | None:
    """The driver of this machine; None where none answers, or for no GPU. Asked once in a process."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(", ", 1) for line in answer.stdout.splitlines() if ", " in line]
    if answer.returncode or not rows:
        return None
    return Driver(rows[0][0].strip(), tuple(name.strip() for _, name in rows))


def promised() -> str | None:
    """Who says that this process has a GPU, for a message; None where nobody does.

    Ray gives a worker its share by CUDA_VISIBLE_DEVICES; empty or -1, it hides all GPUs.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None and given.strip() in ("", "-1"):
        return None
    if given is not None:
        return f"this process was given GPU {given} (CUDA_VISIBLE_DEVICES)"
    if found := driver():
        return f"NVIDIA's driver {found.version} answers for {', '.join(found.gpus)}"
    return None
