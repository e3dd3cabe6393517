"""Memory that is freed and taken again costs no page faults while it is kept."""

import resource

import pytest
import torch

from harness.networks import heap


def faults(megabytes: int) -> int:
    """Page faults of filling and freeing a large and a small tensor: the fewest of several times."""
    found = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(size) for size in (250_000 * megabytes, 250_000)]
        del tensors
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found)


@pytest.mark.skipif(heap._mallopt() is None, reason="the C library has no mallopt")
def test_pages_stay() -> None:
    with heap.kept():
        assert faults(100) < 20
    assert faults(200) > 50  # 50,000 small pages or 100 huge ones
