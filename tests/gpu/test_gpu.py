"""What only a GPU can show: the same draws, attacks, verdicts and trainings as on a CPU, up to float sums."""

import pytest
import same
import torch
from conftest import run_study

from harness import seeds
from harness.attacks.guard import seeded
from harness.networks.device import device, peak_flops

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


def test_draws():
    same.words(GPU)


@pytest.mark.filterwarnings("error:noise takes")
def test_compiled_noise_is_the_same():
    """Bit for bit, words and normals, for any number of images and pixels."""
    for images_, size in ((4, 784), (128, 3072), (1, 785), (7, 1)):
        ids = torch.arange(images_, device="cuda") * 2**31 + 5
        draw = torch.arange(images_, device="cuda")
        plain, fused = (seeds.normal(2**63 - 1, ids, draw, size, fused) for fused in (False, True))
        assert torch.equal(plain, fused)


def test_global_generators_are_seeded_and_restored():
    ids = torch.arange(3, 5, device="cuda")
    torch.manual_seed(1)
    expected = torch.rand(2, device="cuda")
    torch.manual_seed(1)
    drawn = []
    for _ in range(2):
        with seeded(7, ids, 0.1):
            drawn.append(torch.rand(2, device="cuda"))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.rand(2, device="cuda"), expected)


def test_full_float32():
    same.full_float32(GPU)


@pytest.mark.parametrize("settings", same.attack_settings().values(), ids=same.attack_settings())
def test_attacks(settings):
    same.attack(settings, GPU)


def test_verdicts():
    same.verdicts(GPU)


def test_certificates():
    same.certificates(GPU)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("faiss", [True, False])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 160, 160)])
def test_neighbours(shape, faiss, indexed):
    same.neighbours(GPU, shape, indexed, faiss)


@pytest.mark.parametrize("precision", same.PRECISIONS)
@pytest.mark.parametrize("objective", same.OBJECTIVES)
def test_trainings(objective, precision):
    same.losses(objective, precision, GPU)
    same.repeats(objective, precision, GPU)


@pytest.mark.parametrize("precision", same.PRECISIONS)
def test_share_of_peak(precision):
    share = same.training("supervised", precision, GPU).rows[-1]["peak_share"]
    assert share is None if peak_flops(GPU, precision) is None else 0 < share < 1


def test_a_whole_study(tiny, tmp_path):
    assert device() == GPU
    run = run_study(tiny, tmp_path)
    rows = run.store.read(run.plan.base.cell)
    assert rows["device"][0].as_py().startswith("cuda")
    assert rows["clean_accuracy"][-1].as_py() > 0.5
    facts = run.store.metadata(run.plan.base.cell.path)["facts"]
    assert facts["gpus"] and {"driver", "cuda", "cudnn"} <= facts.keys()


@pytest.mark.filterwarnings("error:steps run without")
@pytest.mark.parametrize("precision", same.PRECISIONS)
def test_cuda_graphs(precision):
    assert same.graphs(precision, GPU) == 4
