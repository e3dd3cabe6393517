"""Trainings with an inner attack: resumed, over two ranks, in bfloat16, and what they are worth."""

import numpy as np
import pytest
import torch
from conftest import images
from sklearn.datasets import load_digits
from trained import CPU, inputs, network, train, weights

from harness.attacks import perturb
from harness.attacks.gradient_sign import Pgd
from harness.data.datasets import Images
from harness.defenses import DEFENSES
from harness.networks import ConvNet
from harness.networks.build import build
from harness.networks.classifier import as_input, from_tensors, to_tensors
from harness.networks.objective import supervised
from harness.networks.training import Training, TrainingSettings

INNER = ("pgd_training", "trades", "ensemble")


@pytest.fixture(autouse=True)
def _one_thread(_threads):
    """Images this small are done before a second thread has woken."""
    torch.set_num_threads(1)


def a_defense(method, **settings):
    return DEFENSES[method](epsilon=0.1, batch_size=16, **settings)


def an_objective(method, data):
    others = tuple(network(data, seed).eval().requires_grad_(False) for seed in (7, 8))
    return a_defense(method).objective(inputs(data, other_bases=others), 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", INNER)
def test_an_interrupted_training_ends_bit_identical(method, precision):
    data = images(0, 40, 3, shape=(1, 6, 6))
    settings = a_defense(method, epochs=4, precision=precision)
    whole = train(data, settings, an_objective(method, data))
    first = train(data, settings, an_objective(method, data), epochs=2)
    second = Training(network(data, seed=9), an_objective(method, data), settings, 5, data)
    second.restore(first.state(), first.rows)
    second.run_epoch()
    second.run_epoch()
    assert [row["loss"] for row in whole.rows] == [row["loss"] for row in second.rows]
    assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


@pytest.mark.parametrize("method", INNER)
def test_bfloat16_is_close_and_kept_in_float32(method):
    data = images(0, 40, 3, shape=(1, 6, 6))
    full, half = (
        train(data, a_defense(method, epochs=2, precision=precision), an_objective(method, data))
        for precision in ("float32", "bfloat16")
    )
    losses = [[row["loss"] for row in run.rows[1:]] for run in (full, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {str(value.dtype) for value in half.state().values()} == {"float32"}


def _one_of_two(rank, address, folder):
    """A rank: its losses and weights after each training, which it leaves in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    data = images(0, 41, 3, shape=(1, 6, 6))
    for method in INNER:
        run = train(data, a_defense(method, epochs=3), an_objective(method, data), rank=rank, world=2)
        losses = np.array([row["loss"] for row in run.rows[1:]])
        np.savez(f"{folder}/{method}{rank}.npz", *weights(run), losses=losses)
    torch.distributed.destroy_process_group()


def test_two_ranks_train_what_one_does(tmp_path):
    """41 images in batches of 16, the last of 9: equal up to the order of float sums."""
    arguments = (f"file://{tmp_path}/meet", str(tmp_path))
    torch.multiprocessing.spawn(_one_of_two, arguments, nprocs=2)
    data = images(0, 41, 3, shape=(1, 6, 6))
    for method in INNER:
        one = train(data, a_defense(method, epochs=3), an_objective(method, data))
        ranks = [np.load(tmp_path / f"{method}{rank}.npz") for rank in (0, 1)]
        assert [row["loss"] for row in one.rows[1:]] == pytest.approx(list(ranks[0]["losses"]), rel=1e-3)
        for position, value in enumerate(weights(one)):
            first, second = (rank[f"arr_{position}"] for rank in ranks)
            assert np.array_equal(first, second)
            assert np.allclose(value, first, atol=2e-3), (method, position)


# --- what they are worth: digits, l-inf .1 ---


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits [1797, 1, 8, 8]: three of four to train, the fourth to test."""
    drawn = load_digits()
    pixels = np.rint(drawn.images * (255 / 16)).astype(np.uint8)[:, None]
    everything = Images(pixels, drawn.target.astype(np.int64), np.arange(len(pixels), dtype=np.int64))
    is_test = np.arange(len(pixels)) % 4 == 0
    return everything.take(np.flatnonzero(~is_test)), everything.take(np.flatnonzero(is_test))


def fresh(data):
    return build(ConvNet(width=16), data.pixels, 10, seed=0)


def fitted(classifier, objective, settings, test):
    """The trained network, frozen."""
    training = Training(classifier, objective, settings, 3, test)
    training.start()
    for _ in range(settings.epochs):
        training.run_epoch()
    return from_tensors(fresh(test), to_tensors(training.network), CPU)


@pytest.fixture(scope="module")
def base(digits):
    train_images, test = digits
    torch.set_num_threads(1)
    settings = TrainingSettings(epochs=12, batch_size=64, learning_rate=0.002)
    return fitted(fresh(test), supervised(inputs(train_images)), settings, test)


def white_box_accuracy(classifier, test):
    """Under PGD of 40 steps from a random start."""
    x, labels, ids = (
        as_input(torch.from_numpy(test.pixels)),
        torch.from_numpy(test.labels),
        torch.from_numpy(test.ids),
    )
    attack = Pgd(method="pgd", epsilon=(0.1,), steps=40, random_start=True)
    (adversarial,) = perturb(classifier, x, labels, ids, attack, 0)
    with torch.no_grad():
        return float((classifier(adversarial).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("method", ["pgd_training", "trades"])
def test_white_box_accuracy_rises_by_15_points(digits, base, method):
    train_images, test = digits
    settings = DEFENSES[method](epsilon=0.1, epochs=3, batch_size=64)
    start = from_tensors(fresh(test), to_tensors(base), CPU)
    defended = fitted(start, settings.objective(inputs(train_images), 3), settings, test)
    assert white_box_accuracy(defended, test) >= white_box_accuracy(base, test) + 0.15
