"""The search for a GPU, run on the CPU: all pairs or by a bound, it finds what integers show."""

import sys
import types

import numpy as np
import pytest
import torch
from brute_force import CASES, brute, pairs, scrambled_index
from conftest import images

from harness.errors import HarnessError
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


class Resources:
    """Stands for FAISS's: keeps how much memory of a GPU it holds."""

    held = 1536 << 20

    def setTempMemory(self, size):
        self.held = size


def fake_faiss(monkeypatch):
    """A FAISS with a GPU, whose kernel is torch's; what it was called with."""
    calls = []

    def distances(resources, queries, tile, metric):
        calls.append((resources.held, metric))
        return torch.cdist(queries, tile, p=1)

    parts = {"StandardGpuResources": Resources, "pairwise_distance_gpu": distances, "METRIC_L1": 7}
    faiss, contrib = (types.ModuleType(name) for name in ("faiss", "faiss.contrib"))
    faiss.contrib, contrib.torch_utils = contrib, types.ModuleType("faiss.contrib.torch_utils")
    for name, part in parts.items():
        setattr(faiss, name, part)
    for module in (faiss, contrib, contrib.torch_utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_faiss_holds_no_memory_of_the_gpu(monkeypatch):
    """Each worker has resources of its own: six shares of one GPU would hold 9 GB of it."""
    calls = fake_faiss(monkeypatch)
    measure = nearest.gpu_distances()
    assert measure(torch.zeros(1, 3), torch.ones(2, 3)).tolist() == [[3, 3]]
    assert calls == [(0, 7)]


def test_a_faiss_that_does_not_load_says_what_it_lacks(monkeypatch, tmp_path):
    """That for GPUs raises no ImportError where CUDA's libraries are missing."""
    (tmp_path / "faiss.py").write_text("raise RuntimeError('libcublas.so.12: cannot open')")
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    rows, codes = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.uint8)
    uses = (
        nearest.gpu_distances,
        lambda: nearest.distances(rows, rows),
        lambda: nearest.hamming(codes, codes, np.zeros((1, 1), np.int32)),
    )
    for use in uses:
        with pytest.raises(HarnessError, match="be loaded: RuntimeError: libcublas.so.12.*-cublas-cu12"):
            use()
