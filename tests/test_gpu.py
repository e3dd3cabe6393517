"""What only a GPU can show: the same draws, attacks and trainings as on a CPU, up to float sums."""

import numpy as np
import pytest
import torch
from conftest import images, run_study
from test_bound import brute
from test_filter import index
from test_nearest import pairs

from harness import attacks, nearest_gpu, networks, seeds
from harness.spec import METHODS, NetworkSpec

pytestmark = pytest.mark.gpu


def test_random_words_are_the_same():
    ids, draw = torch.tensor([1, 2**40]), torch.tensor([0, 3])
    here, there = (seeds._words(9, ids.to(on), draw.to(on), 100) for on in ("cpu", "cuda"))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
    assert torch.allclose(seeds.normal(9, ids, draw, 100), seeds.normal(9, ids.cuda(), draw.cuda(), 100).cpu(), atol=1e-5)


def test_full_float32():
    networks.device()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("fgsm", "pgd")])
def test_attacks(method):
    data = images(0, 16, 3, shape=(1, 8, 8))
    network = networks.build(NetworkSpec(architecture="convnet", width=4), data.pixels, 3, 0).eval()
    found = []
    for on in ("cpu", "cuda"):
        x = networks.as_input(networks.to_tensor(data.pixels, torch.device(on)))
        model = network.to(on)
        with torch.no_grad():
            labels = model(x).argmax(1)
        settings = METHODS[method](method=method)
        (made,) = attacks.perturb(model, x, labels, networks.to_tensor(data.ids, torch.device(on)), settings, 0)
        found.append(attacks.norms(x, made)["l2"])
    assert np.mean(found[0]) == pytest.approx(np.mean(found[1]), rel=0.05)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kernel", ["faiss", "torch"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 160, 160)])
def test_neighbours(shape, kernel, indexed, monkeypatch):
    """Exact, the smallest id on ties, by FAISS's kernel where this FAISS has a GPU, and by torch's."""
    if kernel == "torch":
        monkeypatch.setattr(nearest_gpu, "gpu_distances", lambda: None)
    data = images(0, 60, 3, shape, values=3)
    database = nearest_gpu.Database(data, index(data, 0) if indexed else None, torch.device("cuda"))
    assert pairs(database.search(data, True)) == brute(data, data, True)


def test_a_whole_study(tiny, tmp_path):
    run = run_study(tiny, tmp_path)
    rows = run.store.read(run.plan.base.cell)
    assert rows["device"][0].as_py().startswith("cuda")
    assert rows["clean_accuracy"][-1].as_py() > 0.5
