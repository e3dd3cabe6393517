"""Every installation has the same versions: all that is needed is in constraints.txt, for GPUs, too."""

import re
import sysconfig
from functools import cache
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest

# Their own: pip's environment brings one. The second and third pin what can't be installed beside the others.
LEFT_OUT = {"setuptools", "torchattacks", "harness"}
# Of faiss-gpu 1.15.1, which excludes the faiss-cpu that is installed here; the last is cublas's own need.
FAISS_GPU = ("nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12", "nvidia-curand-cu12", "nvidia-cuda-nvrtc-cu12")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text().split()
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in lines}


def needed(extras: tuple[str, ...]) -> set[str]:
    """What is installed here of what the harness with these extras needs, and of what that needs."""
    found: set[str] = set()
    waiting = [("harness", extras)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in requires(name) or ():
            needed_name = canonical(re.match(r"[\w.-]+", requirement)[0])
            condition = requirement.partition(";")[2]
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
            if needed_name in found or (extra and extra[1] not in wanted) or needed_name not in installed():
                continue
            found.add(needed_name)
            asked = re.search(r"\[([^]]*)\]", requirement.partition(";")[0])
            waiting.append((needed_name, tuple(asked[1].split(",")) if asked else ()))
    return found


@cache
def installed() -> set[str]:
    """In this environment's own folders: Ray, imported, shows packages that it brings along."""
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    return {canonical(found.metadata["Name"]) for found in distributions(path=sorted(folders))}


def test_all_that_is_needed_here_is_pinned(pinned):
    names = needed(("cpu", "dev", "docs", "reference", "timm"))
    assert {"torch", "ray", "pydantic-core", "faiss-cpu", "moto"} <= names
    assert names - pinned.keys() <= LEFT_OUT


def test_all_that_faiss_needs_on_a_gpu_is_pinned(pinned):
    """Its own CUDA, another than torch's: without these wheels it does not load."""
    assert {name: pinned.get(name, "").split(".")[0] for name in FAISS_GPU} == {
        **dict.fromkeys(FAISS_GPU, "12"),
        "nvidia-curand-cu12": "10",  # of CUDA 12
    }
