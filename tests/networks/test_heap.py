"""Memory that is freed and taken again costs no page faults while it is kept."""

import resource
import subprocess
import sys

import pytest

from harness.networks import heap


@pytest.mark.skipif(heap._mallopt() is None, reason="the C library has no mallopt")
def test_pages_stay() -> None:
    """In a process of its own: here other tests' trainings may have left room that is large enough."""
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=120)
    inside, outside = map(int, run.stdout.split())
    assert inside < 20
    assert outside > 50  # 50,000 small pages or 100 huge ones


def faults(megabytes: int) -> int:
    """Page faults of filling and freeing a large and a small tensor: the fewest of several times."""
    import torch

    found = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(size) for size in (250_000 * megabytes, 250_000)]
        del tensors
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found)


if __name__ == "__main__":
    with heap.kept():
        within = faults(100)
    print(within, faults(200))
