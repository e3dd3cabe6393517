"""The search for a GPU, run on the CPU: all pairs or by a bound, it finds what integers show."""

import numpy as np
import pytest
import torch
from brute_force import CASES, brute, pairs, scrambled_index
from conftest import images

from harness.neighbours import nearest, nearest_gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case, indexed):
    data = CASES[case]
    database = nearest_gpu.Database(data, scrambled_index(data, 0) if indexed else None, CPU)
    assert pairs(database.search(data, True)) == brute(data, data, True)


@pytest.mark.parametrize("seed", range(12))
def test_any_input_any_partition_any_part(seed, monkeypatch):
    for name, size in (("TILE_BYTES", 300), ("QUERY_BLOCK", 5), ("PAIR_BYTES", 200)):
        monkeypatch.setattr(nearest_gpu, name, size)
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 6))
    database, queries = (
        images(of, 60, classes, (1, 3, 4), int(rng.choice([2, 3, 256]))) for of in (seed, seed + 1000)
    )
    on_device = nearest_gpu.Database(database, scrambled_index(database, seed) if seed % 3 else None, CPU)
    part = slice(int(rng.integers(0, 30)), int(rng.integers(30, 61)))
    for of, same in ((queries, False), (database, True)):
        found, expected = on_device.search(of, same, part), nearest.search_tiled(of, database, same, part)
        assert pairs(found) == pairs(expected)
        assert found.work.pairs == expected.work.pairs
