"""What only a GPU can show: the same draws, attacks and trainings as on a CPU, up to float sums."""

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import FROM_OUTSIDE
from brute_force import brute, pairs, scrambled_index
from conftest import images, run_study

from harness import attacks, seeds
from harness.attacks import ATTACKS
from harness.attacks.gradient_sign import Pgd
from harness.attacks.guard import seeded
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.neighbours import nearest_gpu
from harness.networks import Vgg16, step
from harness.networks.build import build
from harness.networks.classifier import as_input, to_tensor
from harness.networks.convnet import ConvNet
from harness.networks.device import device, peak_flops
from harness.networks.objective import Inputs, supervised
from harness.networks.training import Training, TrainingSettings

pytestmark = pytest.mark.gpu


def test_random_words_are_the_same():
    ids, draw = torch.tensor([1, 2**40]), torch.tensor([0, 3])
    here, there = (seeds._words(9, ids.to(on), draw.to(on), 100) for on in ("cpu", "cuda"))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
    assert torch.allclose(
        seeds.normal(9, ids, draw, 100), seeds.normal(9, ids.cuda(), draw.cuda(), 100).cpu(), atol=1e-5
    )


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
    device()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def _cases():
    for method in sorted(ATTACKS.keys() - FROM_OUTSIDE):
        model, shortest = ATTACKS[method], attack_cases.shortest(method)
        for gradients in ("float32", "bfloat16") if "gradients" in model.model_fields else (None,):
            settings = model(**shortest, **({"gradients": gradients} if gradients else {}))
            yield pytest.param(settings, id=f"{method}-{gradients or 'float32'}")
    yield pytest.param(
        Pgd(method="pgd", epsilon=(0.2,), engine="early_stop", restarts=2), id="pgd-early_stop"
    )


@pytest.mark.parametrize("settings", _cases())
def test_attacks(settings):
    data = images(0, 16, 3, shape=(1, 8, 8))
    network = build(ConvNet(width=4), data.pixels, 3, 0).eval()
    found = []
    for on in ("cpu", "cuda"):
        x = as_input(to_tensor(data.pixels, torch.device(on)))
        model = network.to(on)
        with torch.no_grad():
            labels = model(x).argmax(1)
        (made,) = attacks.perturb(
            model, x, labels, to_tensor(data.ids, torch.device(on)), settings, 0, batch_size=5
        )
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
    database = nearest_gpu.Database(data, scrambled_index(data, 0) if indexed else None, torch.device("cuda"))
    assert pairs(database.search(data, True)) == brute(data, data, True)


@pytest.mark.parametrize(("precision", "rounding"), [("float32", 1e-3), ("bfloat16", 2e-2)])
def test_trainings(monkeypatch, precision, rounding):
    data, losses = images(0, 64, 3, shape=(3, 8, 8)), []
    for on in (torch.device("cpu"), torch.device("cuda")):
        monkeypatch.setattr("harness.networks.training.device", lambda on=on: on)
        pixels, labels, ids = (to_tensor(value, on) for value in (data.pixels, data.labels, data.ids))
        inputs = Inputs(pixels, labels, ids)
        network = build(ConvNet(width=8), data.pixels, 3, 0)
        spec = TrainingSettings(epochs=2, batch_size=16, precision=precision)
        run = Training(network, supervised(inputs), spec, 0, data)
        run.start()
        losses.append([run.run_epoch()["loss"] for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=rounding)
    known = peak_flops(torch.device("cuda"), precision) is not None
    assert (0 < run.rows[-1]["peak_share"] < 1) if known else run.rows[-1]["peak_share"] is None


def test_a_whole_study(tiny, tmp_path):
    run = run_study(tiny, tmp_path)
    rows = run.store.read(run.plan.base.cell)
    assert rows["device"][0].as_py().startswith("cuda")
    assert rows["clean_accuracy"][-1].as_py() > 0.5


@pytest.mark.filterwarnings("error:steps run without")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_graphs_change_nothing(precision, monkeypatch):
    """Bit for bit, with dropout, noise drawn anew each epoch and a smaller last batch; twice the same."""
    monkeypatch.setattr(step, "_WORTHWHILE", 5)
    data = images(0, 100, 3, shape=(3, 32, 32))
    recorded = []
    monkeypatch.setattr(
        step, "cuda_graph", lambda work, real=step.cuda_graph: recorded.append(0) or real(work)
    )
    pixels, labels, ids = (to_tensor(value, device()) for value in (data.pixels, data.labels, data.ids))
    outputs = torch.full((100, 3), 1 / 3, device=device()).log()
    inputs = Inputs(
        pixels, labels, ids, distance=torch.full((100,), 0.1, device=device()), base_outputs=outputs
    )
    settings = ImperceptibleBound(
        k=1.0, n=2, redraw=True, epochs=2, batch_size=16, learning_rate=1e-4, precision=precision
    )

    def trained(graphs):
        network = build(Vgg16(), data.pixels, 3, 0)
        training = Training(network, settings.objective(inputs, 0), settings, 5, data, graphs=graphs)
        training.start()
        rows = [training.run_epoch()["loss"] for _ in range(2)]
        return rows, training.state()

    (losses, state), (again, repeated), (expected, plain) = (
        trained(graphs) for graphs in (True, True, False)
    )
    assert len(recorded) == 4
    assert losses == again == expected
    assert all(np.array_equal(state[name], plain[name]) for name in plain)
    assert all(np.array_equal(state[name], repeated[name]) for name in plain)
