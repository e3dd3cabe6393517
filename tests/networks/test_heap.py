"""Memory that is freed and taken again costs no page faults while it is kept."""

import resource

import pytest
import torch

from harness.networks import heap


def faults(megabytes: int) -> int:
    """Page faults of filling and freeing a large and a small tensor five times, after the first times."""
    before = 0
    for turn in range(8):
        tensors = [torch.ones(size) for size in (250_000 * megabytes, 250_000)]
        del tensors
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(heap._mallopt() is None, reason="the C library has no mallopt")
def test_pages_stay() -> None:
    with heap.kept():
        assert faults(100) < 50
    assert faults(200) > 250  # 50,000 small pages or 100 huge ones, five times
