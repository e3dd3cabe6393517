"""Steps that are recorded and replayed end in the weights of steps that run as they are.

CUDA graphs themselves need a GPU (test_gpu); here what is recorded is a function that runs again.
"""

import pytest
import torch
from conftest import images
from torch import nn
from trained import CPU, inputs, network

from harness.defenses import DEFENSES
from harness.networks import step
from harness.networks import training as loop
from harness.networks.classifier import Classifier
from harness.networks.objective import Objective, cross_entropy, supervised
from harness.networks.training import Training, TrainingSettings

SETTINGS = TrainingSettings(epochs=3, batch_size=4, learning_rate=0.01)
BATCHES = 11  # of 42 images, the last of 2


@pytest.fixture
def data():
    return images(0, 42, 3, shape=(1, 6, 6))


@pytest.fixture(autouse=True)
def _short_epochs_too(monkeypatch):
    monkeypatch.setattr(step, "_WORTHWHILE", BATCHES)


class Recorder:
    """Stands for a GPU's: keeps what it is given, and does it when it is replayed."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1

        def replay():
            self.replayed += 1
            work()

        return replay


def dropping():
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(36, 16), nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 3)
    return Classifier(nn.Sequential(*layers), (0.0,), (1.0,))


def trained(data, monkeypatch, recorder, objective=None, graphs=True):
    monkeypatch.setattr(loop, "recorder_for", lambda network, device: recorder)
    objective = objective or supervised(inputs(data))
    training = Training(dropping(), objective, SETTINGS, 5, data, graphs=graphs)
    training.start()
    for _ in range(SETTINGS.epochs):
        training.run_epoch()
    return training


def same(one, other):
    losses = [[row["loss"] for row in training.rows] for training in (one, other)]
    values = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return losses[0] == losses[1] and all(torch.equal(a, b) for a, b in values)


def test_recorded_steps_train_what_others_do(data, monkeypatch):
    """All but the first three of a training, and the last of each epoch, which is smaller."""
    plain, recorder = trained(data, monkeypatch, None), Recorder()
    assert same(trained(data, monkeypatch, recorder), plain)
    assert recorder.recorded == SETTINGS.epochs
    assert recorder.replayed == SETTINGS.epochs * (BATCHES - 1) - 3


def test_an_epoch_is_a_number_of_its_recording(data, monkeypatch):
    """It is recorded anew: what depends on the epoch differs between epochs."""
    given = inputs(data)

    def loss(seen, indices, epoch):
        return epoch * cross_entropy(seen(given.clean(indices)), given.labels[indices])

    objective = Objective(42, loss, is_steady=True)
    plain = trained(data, monkeypatch, None, objective)
    assert same(trained(data, monkeypatch, Recorder(), objective), plain)


def test_what_cannot_be_recorded_runs_as_it_is(data, monkeypatch):
    plain, asked = trained(data, monkeypatch, None), []

    def refusing(work):
        asked.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    with pytest.warns(UserWarning, match="without a CUDA graph, as recording one failed: operation not per"):
        tried = trained(data, monkeypatch, refusing)
    assert len(asked) == 1
    assert same(tried, plain)


def test_what_is_not_to_be_recorded(data, monkeypatch):
    recorder, given = Recorder(), inputs(data)
    objective = Objective(42, lambda seen, indices, _: seen(given.clean(indices)).sum(1))
    trained(data, monkeypatch, recorder, objective)
    trained(data, monkeypatch, recorder, graphs=False)
    monkeypatch.setattr(step, "_WORTHWHILE", BATCHES + 1)
    trained(data, monkeypatch, recorder)
    assert recorder.recorded == 0


def test_only_known_layers_on_a_gpu(data):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    known, gpu = network(data), torch.device("cuda")
    assert step.recorder_for(known, gpu) is step.cuda_graph
    assert step.recorder_for(known, CPU) is None
    assert step.recorder_for(nn.Sequential(known, Doubled()), gpu) is None


def test_which_methods_are_steady(data):
    """The one that asks for the number of its batch is not."""
    count, more = len(data.ids), {"precision": "float32"}
    given = inputs(
        data,
        distance=torch.ones(count),
        base_outputs=torch.zeros(count, 3),
        adversarial=torch.rand(count, 1, 6, 6),
        other_bases=(network(data),),
    )
    settings = {
        "imperceptible_bound": {"k": 1, "n": 2},
        "adversarial_images": {"sources": {"attack": "fgsm"}},
        "pgd_training": {"epsilon": 0.1},
        "trades": {"epsilon": 0.1},
        "ensemble": {"epsilon": 0.1},
        "no_noise": {"n": 2},
        "noise_labels": {"k": 1, "n": 2},
    }
    assert settings.keys() == DEFENSES.keys() - {"foreign"}
    steady = {
        name: DEFENSES[name].model_validate({"method": name, **own, **more}).objective(given, 0).is_steady
        for name, own in settings.items()
    }
    assert [name for name, is_steady in steady.items() if not is_steady] == ["ensemble"]
