"""The epoch loop and what an objective sees of it: against closed forms and hand-written loops."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import images
from torch import nn
from torch.nn import functional as F
from trained import CPU, inputs, network, train

from harness import seeds
from harness.errors import HarnessError
from harness.networks.classifier import Classifier, predict, to_tensors
from harness.networks.counted import step_flops
from harness.networks.device import peak_flops
from harness.networks.objective import InTraining, Objective, supervised
from harness.networks.training import Training, TrainingSettings
from harness.results import checkpoints
from harness.results.cells import Cell
from harness.results.storage import Folder


@pytest.fixture
def data():
    return images(0, 40, 3, shape=(1, 6, 6))


def test_equals_a_plain_loop(data):
    spec = TrainingSettings(epochs=2, batch_size=16, learning_rate=0.01)
    run = train(data, spec)
    plain = network(data)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    x, y = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    for epoch in (1, 2):
        order, losses = torch.from_numpy(seeds.generator(5, "order", epoch).permutation(40)), []
        for batch in order.split(16):
            loss = F.cross_entropy(plain(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(batch))
        assert run.rows[epoch]["loss"] == pytest.approx(sum(losses) / 40, rel=1e-6)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(run.network.parameters(), plain.parameters(), strict=True)
    )
    accuracy = (predict(plain, data.pixels, 8, CPU) == data.labels).mean()
    assert run.rows[2]["clean_accuracy"] == pytest.approx(accuracy)
    assert [row["epoch"] for row in run.rows] == [0, 1, 2]
    assert run.rows[0]["loss"] is None


def test_bfloat16_is_for_the_products_alone(data):
    """Close to float32 but not the same; what is kept is float32, in the usual layout."""
    full, half = (
        train(data, TrainingSettings(epochs=3, batch_size=16, precision=p)) for p in ("float32", "bfloat16")
    )
    losses = [[row["loss"] for row in run.rows[1:]] for run in (full, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    kept = half.state()
    assert {str(value.dtype) for value in kept.values()} == {"float32"}
    assert all(value.flags.c_contiguous for value in kept.values())
    assert all(value.flags.c_contiguous for value in to_tensors(half.network).values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_training_ends_bit_identical(data, precision):
    spec = TrainingSettings(epochs=4, batch_size=16, precision=precision)
    whole, first = train(data, spec), train(data, spec, epochs=2)
    tensors, rows = first.state(), first.rows
    second = Training(network(data, seed=9), supervised(inputs(data)), spec, 5, data)
    second.restore(tensors, rows)
    assert second.epoch == 2
    second.run_epoch()
    second.run_epoch()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True)
    )
    assert [row["loss"] for row in whole.rows] == [row["loss"] for row in second.rows]


def test_a_state_stays_while_training_goes_on(data):
    """It is written by a thread."""
    run = train(data, TrainingSettings(epochs=2, batch_size=16), epochs=1)
    state = run.state()
    before = {name: value.copy() for name, value in state.items()}
    run.run_epoch()
    assert all(np.array_equal(state[name], value) for name, value in before.items())
    moved = run.state()
    assert not np.array_equal(moved["network/body.0.weight"], before["network/body.0.weight"])
    assert not np.array_equal(moved["adam/0/exp_avg"], before["adam/0/exp_avg"])


def test_training_leaves_the_global_generator_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(data, TrainingSettings(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_floating_point_operations_of_a_step(data):
    """2 a multiply-add; backward twice as many, but for the images, which need no gradient."""
    w, size = 4, 6
    convolutions = [(1, w, size), (w, w, size), (w, 2 * w, size // 2), (2 * w, 2 * w, size // 2)]
    linear = [(2 * w, 4 * w), (4 * w, 3)]
    forward = [9 * i * o * s * s for i, o, s in convolutions] + [i * o for i, o in linear]
    counted = step_flops(network(data), torch.from_numpy(data.pixels[:5]))
    assert counted == 2 * (3 * sum(forward) - forward[0])


def test_peaks_of_devices(monkeypatch):
    def peak(name, precision):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        return peak_flops(torch.device("cuda"), precision)

    assert peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert peak("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak("NVIDIA A100-SXM4-40GB", "float32") == 19.5e12
    assert peak("NVIDIA L4", "bfloat16") == 121e12
    assert peak("Tesla T4", "bfloat16") is None
    assert peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16") is None
    assert peak("NVIDIA GeForce 123", "float32") is None
    assert peak_flops(CPU, "float32") is None


def test_a_diverging_loss_is_an_error(data):
    clean = inputs(data)
    objective = Objective(40, lambda seen, indices, _: seen(clean.clean(indices)).sum(1) * torch.nan)
    with pytest.raises(HarnessError, match="the loss of epoch 1 is nan"):
        train(data, TrainingSettings(epochs=1), objective)


# --- what an objective sees ---


def test_batches_of_an_epoch_are_numbered(data):
    clean, seen = inputs(data), []

    def loss(in_training, indices, epoch):
        seen.append((epoch, in_training.batch, len(indices)))
        return in_training(clean.clean(indices)).sum(1)

    train(data, TrainingSettings(epochs=2, batch_size=16), Objective(40, loss))
    sizes = [(0, 16), (1, 16), (2, 8)]
    assert seen == [(epoch, *batch) for epoch in (1, 2) for batch in sizes]


def dropping():
    return Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.Dropout(0.5), nn.Linear(64, 3)), (0.0,), (1.0,)
    )


def test_an_inner_attack_meets_the_network_without_dropout_and_leaves_no_trace():
    torch.manual_seed(0)
    model = dropping().train()
    model.body[1].bias.requires_grad_(False)
    seen = InTraining(model, model, CPU, "float32")
    x = torch.rand(5, 1, 6, 6, requires_grad=True)
    with seen.frozen() as logits:
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        first, second = logits(x), logits(x)
        torch.autograd.grad(first.sum(), x)
    assert torch.equal(first, second)
    assert model.training and all(part.training for part in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["body.1.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(seen(x), seen(x))
    with pytest.raises(RuntimeError, match="stop"), seen.frozen():
        raise RuntimeError("stop")
    assert model.training


def test_another_networks_gradient_leaves_the_one_in_training_alone():
    model, other = dropping().train(), dropping().eval().requires_grad_(False)
    with InTraining(model, model, CPU, "float32").frozen(other) as logits:
        assert model.training and model.body[1].weight.requires_grad
        x = torch.rand(5, 1, 6, 6)
        assert torch.equal(logits(x), other(x))
    assert not other.training
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_logits_are_float32_in_the_trainings_arithmetic():
    model = dropping().eval()
    x = torch.rand(5, 1, 6, 6)
    full, half = (InTraining(model, model, CPU, precision) for precision in ("float32", "bfloat16"))
    with half.frozen() as logits:
        inner = logits(x)
    assert half(x).dtype == inner.dtype == torch.float32
    assert torch.equal(half(x), inner)
    assert torch.equal(full(x), model(x))
    assert not torch.equal(half(x), full(x))
    assert torch.allclose(half(x), full(x), atol=0.05)


def test_batch_statistics_go_on_from_a_checkpoint(tmp_path):
    """The counter of batches has no dimension: in a stored checkpoint, too."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3))
    data = images(0, 40, 3, shape=(1, 6, 6))
    settings = TrainingSettings(epochs=2, batch_size=16)

    def training():
        return Training(
            Classifier(deepcopy(body), (0.0,), (1.0,)), supervised(inputs(data)), settings, 5, data
        )

    whole = training()
    whole.start()
    whole.run_epoch()
    cell = Cell("training", {"dataset": "digits", "method": "base"}, {}, {})
    folder = Folder.at(tmp_path)
    checkpoints.save(folder, cell, whole.state(), {"rows": whole.rows})
    tensors, state = checkpoints.load(folder, cell)
    resumed = training()
    resumed.restore(tensors, state["rows"])
    for each in (whole, resumed):
        each.run_epoch()
    after = [to_tensors(each.network) for each in (whole, resumed)]
    assert all(np.array_equal(after[0][name], after[1][name]) for name in after[0])
    assert after[0]["body.2.num_batches_tracked"] == 6


def test_batch_statistics_are_of_one_worker():
    """Of several each would normalise with its own share, and the number of workers would change numbers."""
    network = Classifier(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), (0.0,), (1.0,))
    with pytest.raises(HarnessError, match="'1' normalises .* 2 workers .* workers: 1"):
        Training(network, None, TrainingSettings(epochs=1), 0, None, world=2)


def test_operations_are_counted_of_one_image_whatever_the_mode():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4)).train()
    # Forward, and the gradient of the weights: 16 x 4 products and sums each.
    assert step_flops(network, torch.zeros(1, 1, 4, 4)) == 2 * 2 * 16 * 4
    assert network.training
