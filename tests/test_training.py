"""The epoch loop and the objectives: against closed forms and hand-written loops."""

import numpy as np
import pytest
import torch
from conftest import images
from torch.nn import functional as F

from harness import baselines, defense, networks, seeds, training
from harness.errors import HarnessError
from harness.spec import NetworkSpec, TrainingSpec

CPU = torch.device("cpu")


@pytest.fixture
def data():
    return images(0, 40, 3, shape=(1, 6, 6))


def network(data, seed=0):
    return networks.build(NetworkSpec(architecture="convnet", width=4), data.pixels, 3, seed)


def inputs(data, **more):
    return training.Inputs(
        torch.from_numpy(data.pixels), torch.from_numpy(data.labels), torch.from_numpy(data.ids), **more
    )


def train(data, spec, objective=None, epochs=None):
    objective = objective or training.supervised(inputs(data), {})
    run = training.Training(network(data), objective, spec, 5, data)
    run.start()
    for _ in range(epochs or spec.epochs):
        run.run_epoch()
    return run


def test_equals_a_plain_loop(data):
    spec = TrainingSpec(epochs=2, batch_size=16, learning_rate=0.01)
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
    accuracy = (networks.predict(plain, data.pixels, 8, CPU) == data.labels).mean()
    assert run.rows[2]["clean_accuracy"] == pytest.approx(accuracy)
    assert [row["epoch"] for row in run.rows] == [0, 1, 2]
    assert run.rows[0]["loss"] is None


def test_bfloat16_is_for_the_products_alone(data):
    """Close to float32 but not the same; what is kept is float32, in the usual layout."""
    full, half = (
        train(data, TrainingSpec(epochs=3, batch_size=16, precision=p)) for p in ("float32", "bfloat16")
    )
    losses = [[row["loss"] for row in run.rows[1:]] for run in (full, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    kept = half.state()
    assert {str(value.dtype) for value in kept.values()} == {"float32"}
    assert all(value.flags.c_contiguous for value in kept.values())
    assert all(value.flags.c_contiguous for value in networks.to_tensors(half.network).values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_training_ends_bit_identical(data, precision):
    spec = TrainingSpec(epochs=4, batch_size=16, precision=precision)
    whole, first = train(data, spec), train(data, spec, epochs=2)
    tensors, rows = first.state(), first.rows
    second = training.Training(network(data, seed=9), training.supervised(inputs(data), {}), spec, 5, data)
    second.restore(tensors, rows)
    assert second.epoch == 2
    second.run_epoch()
    second.run_epoch()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True)
    )
    assert [row["loss"] for row in whole.rows] == [row["loss"] for row in second.rows]


def test_training_leaves_the_global_generator_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(data, TrainingSpec(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_floating_point_operations_of_a_step(data):
    """2 a multiply-add; backward twice as many, but for the images, which need no gradient."""
    w, size = 4, 6
    convolutions = [(1, w, size), (w, w, size), (w, 2 * w, size // 2), (2 * w, 2 * w, size // 2)]
    linear = [(2 * w, 4 * w), (4 * w, 3)]
    forward = [9 * i * o * s * s for i, o, s in convolutions] + [i * o for i, o in linear]
    counted = training.step_flops(network(data), torch.from_numpy(data.pixels[:5]))
    assert counted == 2 * (3 * sum(forward) - forward[0])


def test_peaks_of_devices(monkeypatch):
    def peak(name, precision):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        return training.peak_flops(torch.device("cuda"), precision)

    assert peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert peak("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak("NVIDIA A100-SXM4-40GB", "float32") == 19.5e12
    assert peak("NVIDIA L4", "bfloat16") == 121e12
    assert peak("Tesla T4", "bfloat16") is None
    assert peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16") is None
    assert peak("NVIDIA GeForce 123", "float32") is None
    assert training.peak_flops(CPU, "float32") is None


def test_a_diverging_loss_is_an_error(data):
    objective = training.Objective(
        40,
        lambda i, _: (torch.zeros(len(i), 1, 6, 6), torch.zeros(len(i))),
        lambda logits, _: logits.sum(1) * torch.nan,
    )
    with pytest.raises(HarnessError, match="the loss of epoch 1 is nan"):
        train(data, TrainingSpec(epochs=1), objective)


# --- the defense, eq. 4-7 ---


@pytest.fixture
def defended(data):
    teacher = torch.log_softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), 1)
    distance = torch.linspace(0, 0.2, 40)
    return inputs(data, distance=distance, teacher=teacher)


SETTINGS = {"k": 2.0, "n": 3, "redraw": False, "seed": 7}


def test_perturbations_have_the_bounds_spread(data):
    """Over many draws the noise of image i is N(0, d_i / (2 k)), and the mean image is the image."""
    distance = torch.linspace(0, 0.2, 40)
    objective = defense.objective(
        inputs(data, distance=distance, teacher=torch.zeros(40, 3)), {**SETTINGS, "n": 400}
    )
    assert objective.samples == 40 * 400
    x, _ = objective.batch(torch.arange(40 * 400), 1)
    noise = x.view(400, 40, -1) - (torch.from_numpy(data.pixels).float() / 255).view(1, 40, -1)
    sigma = distance / 4
    found = noise.transpose(0, 1).flatten(1)
    assert torch.allclose(found.std(1), sigma, rtol=0.03, atol=1e-7)  # 14,400 draws: standard error .6 %
    assert (found.mean(1).abs() <= 5 * sigma / 120 + 1e-7).all()
    assert torch.equal(x[0], torch.from_numpy(data.pixels[0]).float() / 255)  # d = 0: no noise at all


def test_an_images_perturbations_come_back_every_epoch(defended):
    objective = defense.objective(defended, SETTINGS)
    everything = torch.arange(objective.samples)
    (first, targets), (second, _) = objective.batch(everything, 1), objective.batch(everything, 2)
    assert torch.equal(first, second)
    assert torch.equal(targets[:40], defended.teacher)
    assert torch.equal(first[[45]], objective.batch(torch.tensor([45]), 1)[0])
    assert not torch.equal(
        first[1] - first[41], torch.zeros_like(first[1])
    )  # j = 0 and j = 1 of image 1 differ
    redrawn = defense.objective(defended, {**SETTINGS, "redraw": True})
    again = [redrawn.batch(everything, epoch)[0] for epoch in (1, 2)]
    assert torch.equal(again[0], first)
    assert not torch.equal(again[1][1], first[1])


def test_a_perturbation_belongs_to_the_image_not_its_position(data, defended):
    some = np.array([3, 17, 30])
    taken = training.Inputs(
        defended.pixels[some],
        defended.labels[some],
        defended.ids[some],
        distance=defended.distance[some],
        teacher=defended.teacher[some],
    )
    whole, part = defense.objective(defended, SETTINGS), defense.objective(taken, SETTINGS)
    for j in range(3):
        assert torch.equal(
            whole.batch(torch.from_numpy(some) + 40 * j, 1)[0], part.batch(torch.arange(3) + 3 * j, 1)[0]
        )


def test_the_loss_is_kl_of_f1_to_f2(defended):
    objective = defense.objective(defended, SETTINGS)
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    p, q = defended.teacher.exp(), torch.softmax(logits, 1)
    expected = (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(objective.loss(logits, defended.teacher), expected, atol=1e-6)
    assert torch.allclose(objective.loss(defended.teacher, defended.teacher), torch.zeros(40), atol=1e-6)


def test_without_noise_f1_is_already_the_optimum(data):
    """sigma = 0 and f2 = f1: the loss is 0, and training from there stays there."""
    f1 = network(data)
    teacher = torch.log_softmax(torch.cat(list(networks.logits(f1, data.pixels, 40, CPU))), 1)
    objective = defense.objective(inputs(data, distance=torch.zeros(40), teacher=teacher), SETTINGS)
    run = train(data, TrainingSpec(epochs=1, learning_rate=0.001), objective)
    assert run.rows[1]["loss"] < 1e-4


# --- adversarial training, V-D ---


def test_adversarial_training_sees_every_image_clean_and_adversarial(data):
    made = torch.rand(40, 1, 6, 6)
    objective = baselines.adversarial(inputs(data, adversarial=made), {})
    assert objective.samples == 80
    x, y = objective.batch(torch.arange(80), 1)
    assert torch.equal(x[:40], torch.from_numpy(data.pixels).float() / 255)
    assert torch.equal(x[40:], made)
    assert torch.equal(y, torch.from_numpy(np.concatenate([data.labels, data.labels])))
    logits = torch.randn(80, 3)
    assert torch.allclose(objective.loss(logits, y), F.cross_entropy(logits, y, reduction="none"))
