"""What a device must do as the CPU does: draws, arithmetic, neighbours, attacks, verdicts and trainings.

A function a thing: it raises AssertionError where the device does otherwise, and returns what it measured.
``test_gpu`` runs them on a GPU, ``check`` on any device, and a test of theirs on the CPU against itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import attack_cases
import numpy as np
import torch
from brute_force import brute, pairs, scrambled_index
from conftest import images, on_the_cpu
from torch import Tensor, nn

from harness import attacks, seeds
from harness.attacks import Attack
from harness.checks.robustness import Case, check_network
from harness.data import datasets
from harness.data.subset import DatasetSpec
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.defenses.pgd_training import PgdTraining
from harness.evaluation.certified import Smoothing, certify
from harness.neighbours import nearest_gpu
from harness.networks import Architecture, ConvNet, Vgg16, step
from harness.networks.build import build
from harness.networks.classifier import as_input, from_tensors, to_tensor, to_tensors
from harness.networks.device import full_precision
from harness.networks.objective import Inputs, supervised
from harness.networks.training import Training, TrainingSettings

CPU = torch.device("cpu")


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """All of the harness computes there: on the GPU that torch has, or on the CPU beside it."""
    with on_the_cpu() if device.type == "cpu" else nullcontext():
        yield


# --- draws and arithmetic ---------------------------------------------------------------------------


def words(device: torch.device) -> float:
    """Random words bit for bit; normal draws up to the last bits. The largest difference of those."""
    ids, draw = torch.tensor([1, 2**40]), torch.tensor([0, 3])
    there = ids.to(device), draw.to(device)
    mine, theirs = (seeds._words(9, *each, 100) for each in ((ids, draw), there))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(mine, theirs, strict=True)), "random words differ"
    uniform = seeds.uniform(9, *there, 100).cpu()
    assert torch.equal(seeds.uniform(9, ids, draw, 100), uniform), "uniform draws differ"
    difference = seeds.normal(9, ids, draw, 100) - seeds.normal(9, *there, 100).cpu()
    assert difference.abs().max() < 1e-5, "normal draws differ by more than their last bits"
    return difference.abs().max().item()


def full_float32(device: torch.device) -> float:
    """Products and convolutions in float32: the largest error in units of the largest value. TF32: 3e-4."""
    full_precision()
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=random) for _ in range(2))
    x, w = torch.randn(8, 16, 12, 12, generator=random), torch.randn(16, 16, 3, 3, generator=random)
    found = (a.to(device) @ b.to(device), nn.functional.conv2d(x.to(device), w.to(device)))
    exact = (a.double() @ b.double(), nn.functional.conv2d(x.double(), w.double()))
    errors = [
        ((one.cpu().double() - other).abs().max() / other.abs().max()).item()
        for one, other in zip(found, exact, strict=True)
    ]
    assert max(errors) < 1e-5, f"float32 products are off by {max(errors):.1e}: TF32?"
    return max(errors)


def neighbours(device: torch.device, shape: tuple[int, int, int], indexed: bool, faiss: bool = True) -> None:
    """Exact, the smallest id on ties, by FAISS's kernel where this FAISS has one for GPUs, or by torch's."""
    data = images(0, 60, 3, shape, values=3)
    kernel = nullcontext() if faiss else mock.patch.object(nearest_gpu, "gpu_distances", lambda: None)
    with kernel:
        database = nearest_gpu.Database(data, scrambled_index(data, 0) if indexed else None, device)
        assert pairs(database.search(data, True)) == brute(data, data, True), "neighbours differ"


# --- attacks on a trained network -------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A trained network's weights, by which it is on any device, and images that it did not see."""

    architecture: Architecture
    train: datasets.Images
    test: datasets.Images
    tensors: dict[str, np.ndarray]
    accuracy: float  # clean, on all of its test images

    def on(self, device: torch.device) -> nn.Module:
        """As workers load it."""
        network = build(self.architecture, self.train.pixels, 10, 0, initial=False)
        return from_tensors(network, self.tensors, device)

    def inputs(self, device: torch.device, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first images, their labels and ids."""
        some = self.test.take(slice(0, count))
        pixels, labels, ids = (to_tensor(each, device) for each in (some.pixels, some.labels, some.ids))
        return as_input(pixels), labels, ids


def digits(enlarged: int = 1) -> datasets.Dataset:
    """scikit-learn's digits; enlarged, every pixel is so many in both directions, in three channels."""
    dataset = datasets.load(DatasetSpec(source="digits"), None)
    if enlarged == 1:
        return dataset
    parts = []
    for part in (dataset.train, dataset.test):
        pixels = part.pixels.repeat(enlarged, axis=2).repeat(enlarged, axis=3).repeat(3, axis=1)
        parts.append(datasets.Images(pixels, part.labels, part.ids))
    return datasets.Dataset(dataset.classes, *parts)


def trained(architecture: Architecture, data: datasets.Dataset, on: torch.device, **settings: Any) -> Target:
    """A base network of these images, trained on the device."""
    spec = TrainingSettings.model_validate(settings)
    with computing_on(on):
        network = build(architecture, data.train.pixels, 10, 0)
        training = Training(network, supervised(_inputs(data.train, on)), spec, 0, data.test)
        training.start()
        for _ in range(spec.epochs):
            row = training.run_epoch()
    return Target(architecture, data.train, data.test, to_tensors(network), row["clean_accuracy"])


@cache
def small() -> Target:
    """A small network trained in seconds, on the CPU."""
    return trained(ConvNet(width=8), digits(), CPU, epochs=5, learning_rate=0.005, batch_size=64)


def _inputs(data: datasets.Images, on: torch.device, **more: Any) -> Inputs:
    return Inputs(*(to_tensor(each, on) for each in (data.pixels, data.labels, data.ids)), **more)


def attack_settings() -> dict[str, Attack]:
    """All attacks that are installed, in float32 and with gradients in bfloat16, by a word for each.

    DeepFool goes 2 % beyond the boundary: an image on it falls on either side, by the order of sums alone.
    """
    found: dict[str, Attack] = {}
    for case in attack_cases.CASES:
        settings = case.with_epsilons(case.epsilons[-1:])
        if settings.method == "deepfool":
            settings = attack_cases.like(settings, overshoot=0.02)
        changed = settings.model_dump(exclude_defaults=True, exclude={"method", "epsilon", "arguments"})
        words = [f"{name} {value}" for name, value in changed.items()]
        found[", ".join([case.method, *words])] = settings
    return found


@dataclass(frozen=True)
class Agreement:
    """An attack on the device beside the CPU: shares of the images."""

    fooled: float  # on the CPU
    same_outcome: float  # of all images: fooled on both or on neither
    same_distance: float  # of those fooled on both: their l2 within 5 %


def attack(
    settings: Attack, device: torch.device, target: Target | None = None, count: int = 32
) -> Agreement:
    """Success and l2 of each image, on the device and on the CPU.

    An image at the edge may fall on another side where sums are made in another order: one in ten, and of
    distances one in ten, one in four with gradients in bfloat16. (Another convolution of the CPU's, in place
    of oneDNN's, changes one image in 32 at most.)
    """
    target = target or small()
    (left, mine), (left_there, theirs) = (_attacked(target, settings, on, count) for on in (CPU, device))
    both = left & left_there
    fooled = left.mean().item()
    assert fooled > 0.5, f"it fools {fooled:.0%} of the images: too few to compare"
    near = np.abs(mine[both] - theirs[both]) <= 0.05 * mine[both]
    found = Agreement(fooled, (left == left_there).mean().item(), float(near.sum() / max(1, len(near))))
    least = 0.75 if getattr(settings, "gradients", "float32") == "bfloat16" else 0.9
    assert found.same_outcome >= 0.9, f"outcome equal on {found.same_outcome:.0%} of the images"
    assert found.same_distance >= least, f"l2 within 5 % on {found.same_distance:.0%} of the fooled"
    return found


def _attacked(
    target: Target, settings: Attack, on: torch.device, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which images left their class, bool [B], and their l2 [B]."""
    full_precision()
    network = target.on(on)
    x, _, ids = target.inputs(on, count)
    with torch.no_grad():
        labels = network(x).argmax(1)
    (made,) = attacks.perturb(network, x, labels, ids, settings, 0, batch_size=10)
    with torch.no_grad():
        left = (network(made).argmax(1) != labels).cpu().numpy()
    return left, attacks.norms(x, made)["l2"]


def gradients(device: torch.device, target: Target, count: int) -> float:
    """Logits and gradients to the image: the largest difference, in units of the largest value."""
    full_precision()
    found = []
    for on in (CPU, device):
        x, labels, _ = target.inputs(on, count)
        logits = target.on(on)(x.requires_grad_())
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), x)
        found.append((logits.detach().cpu(), gradient.cpu()))
    differences = [((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*found, strict=True)]
    assert max(differences) < 1e-3, f"logits or gradients differ by {max(differences):.1e} of the largest"
    return max(differences)


# --- what is said of a network ----------------------------------------------------------------------


def verdicts(device: torch.device, count: int = 60) -> dict[str, str]:
    """All checks of robustness: the same verdicts of the same network."""
    found = []
    for on in (CPU, device):
        with computing_on(on):
            full_precision()
            case = Case(small().on(on), *small().inputs(on, count), epsilon=0.1, seed=3, batch_size=32)
            found.append({each.check: each.verdict for each in check_network(case)})
    assert found[0] == found[1], f"verdicts differ: {found}"
    return found[0]


def certificates(device: torch.device, count: int = 12, draws: int = 400) -> int:
    """Certified radii: of each image the same class, but for draws at the edge. The most such draws."""
    found = []
    for on in (CPU, device):
        full_precision()
        smoothing = Smoothing(0.25, 50, draws, 0.001)
        found.append(certify(small().on(on), *small().inputs(on, count), smoothing, 3, 64))
    differences = [abs(a.top_count - b.top_count) for a, b in zip(*found, strict=True)]
    classes = [a.prediction == b.prediction for a, b in zip(*found, strict=True)]
    assert np.mean(classes) >= 0.9, f"certified classes are equal on {np.mean(classes):.0%} of the images"
    assert sorted(differences)[int(0.9 * count)] <= 0.02 * draws, f"counts of draws differ: {differences}"
    return max(differences)


# --- trainings --------------------------------------------------------------------------------------

OBJECTIVES = ("supervised", "imperceptible_bound", "pgd_training")
PRECISIONS = {"float32": 1e-3, "bfloat16": 2e-2}  # with how far losses may be apart


def training(objective: str, precision: str, on: torch.device, epochs: int = 2) -> Training:
    """A training of the objective on the device after so many epochs."""
    with computing_on(on):
        data = images(0, 64, 3, shape=(3, 8, 8))
        shared = {"epochs": 4, "batch_size": 16, "precision": precision}
        made = {
            "supervised": lambda: TrainingSettings.model_validate(shared),
            "imperceptible_bound": lambda: ImperceptibleBound.model_validate({"k": 1.0, "n": 2, **shared}),
            "pgd_training": lambda: PgdTraining.model_validate({"epsilon": 0.05, "steps": 3, **shared}),
        }
        settings: Any = made[objective]()
        outputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
        given = _inputs(data, on, distance=torch.full((64,), 0.1).to(on), base_outputs=outputs.to(on))
        minimised = supervised(given) if objective == "supervised" else settings.objective(given, 1)
        network = build(ConvNet(width=8), data.pixels, 3, 0)
        training = Training(network, minimised, settings, 0, data)
        training.start()
        for _ in range(epochs):
            training.run_epoch()
    return training


def losses(objective: str, precision: str, device: torch.device) -> float:
    """Of each epoch the same up to the precision: the largest difference, of the loss."""
    mine, theirs = (
        np.array([row["loss"] for row in training(objective, precision, on).rows[1:]]) for on in (CPU, device)
    )
    difference = float((np.abs(theirs - mine) / mine).max())
    assert difference < PRECISIONS[precision], f"losses {theirs.tolist()}, on the CPU {mine.tolist()}"
    return difference


def repeats(objective: str, precision: str, device: torch.device) -> None:
    """Twice the same training, and one that goes on from its state, end bit for bit alike."""
    whole, again, first = (training(objective, precision, device, epochs) for epochs in (4, 4, 2))
    assert _equal(whole, again), "the same training twice differs"
    resumed = training(objective, precision, device, epochs=0)
    resumed.restore(first.state(), first.rows)
    with computing_on(device):
        for _ in range(2):
            resumed.run_epoch()
    assert _equal(whole, resumed), "a training that goes on from its state differs from the whole"


def graphs(precision: str, device: torch.device) -> int:
    """Steps recorded as CUDA graphs change nothing, bit for bit: with dropout, noise drawn anew each epoch
    and a smaller last batch. How many graphs were recorded, of two trainings of two epochs.
    """
    recorded = []

    def counted(work: Callable[[], None], real: step.Recorder = step.cuda_graph) -> step.Replay:
        recorded.append(work)
        return real(work)

    with mock.patch.object(step, "_WORTHWHILE", 5), mock.patch.object(step, "cuda_graph", counted):
        one, again, plain = (_vgg16_defended(precision, device, on) for on in (True, True, False))
    assert _equal(one, again), "the same training twice differs with CUDA graphs"
    assert _equal(one, plain), "a training with CUDA graphs differs from one without"
    return len(recorded)


def _vgg16_defended(precision: str, device: torch.device, graphs: bool) -> Training:
    """Two epochs of the bound's defense."""
    with computing_on(device):
        data = images(0, 100, 3, shape=(3, 32, 32))
        outputs = torch.full((100, 3), 1 / 3, device=device).log()
        given = _inputs(data, device, distance=torch.full((100,), 0.1).to(device), base_outputs=outputs)
        shared = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-4, "precision": precision}
        settings = ImperceptibleBound.model_validate({"k": 1.0, "n": 2, "redraw": True, **shared})
        network = build(Vgg16(), data.pixels, 3, 0)
        training = Training(network, settings.objective(given, 0), settings, 5, data, graphs=graphs)
        training.start()
        for _ in range(settings.epochs):
            training.run_epoch()
    return training


def _equal(one: Training, other: Training) -> bool:
    mine, theirs = one.state(), other.state()
    same_rows = [row["loss"] for row in one.rows] == [row["loss"] for row in other.rows]
    return same_rows and all(np.array_equal(mine[name], theirs[name]) for name in mine)
