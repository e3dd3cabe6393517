"""One epoch of the defense against the loop that a user would write first.

Two rows are of no defense: its network alone, which takes the same steps on clean images, without noise and
teacher. No defense of as many samples is faster.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from harness.benchmark import peers
from harness.benchmark.setting import SMOKE, Setting, Subject
from harness.benchmark.timing import ALONE, OURS, Case, Contender
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.networks import NETWORKS, Architecture
from harness.networks.build import build
from harness.networks.classifier import Classifier, as_input, to_tensor
from harness.networks.device import device_name
from harness.networks.objective import Inputs, InTraining, Objective, supervised
from harness.networks.training import Training, TrainingSettings

_PERTURBATIONS = 2
_SIGMA = 0.05
_RATE = 1e-4


def cases(setting: Setting) -> Iterator[Case]:
    """An epoch of the defense: VGG16 and the small network, on the last data set there is."""
    subject = setting.subjects[-1]
    for architecture in ("convnet",) if setting.sizes is SMOKE else ("vgg16", "convnet"):
        yield _epoch(setting, subject, _architecture(architecture, subject))


def _architecture(name: str, subject: Subject) -> Architecture:
    width = {"width": subject.width} if name == "convnet" else {}
    return NETWORKS[name].model_validate({"architecture": name, **width})


def _epoch(setting: Setting, subject: Subject, network: Architecture) -> Case:
    samples = setting.sizes.samples
    dataset = setting.load(subject, samples // _PERTURBATIONS)
    train, test = dataset.train, dataset.test.take(np.arange(16))
    on, classes = setting.device, len(dataset.classes)
    pixels, labels, ids = (to_tensor(value, on) for value in (train.pixels, train.labels, train.ids))

    def fresh() -> Classifier:
        torch.set_num_threads(setting.threads)
        return build(network, train.pixels, classes, 0).to(on)

    f1 = fresh().eval()
    with torch.inference_mode():
        teacher = torch.cat([f1(as_input(part)).log_softmax(1) for part in pixels.split(128)]).clone()
    distance = torch.full((len(ids),), 2 * _SIGMA, device=on)
    inputs = Inputs(pixels, labels, ids, distance, teacher)

    def trained(name: str, note: str, objective: Objective, settings: TrainingSettings) -> Contender:
        def prepare() -> Training:
            training = Training(fresh(), objective, settings, 0, test)
            training.start()
            return training

        def run(state: Training) -> Mapping[str, float]:
            row = state.run_epoch()
            return {"seconds": samples / row["images_per_s"]}  # without the clean test that ends an epoch

        return Contender(name, run, samples, note, prepare)

    def both(suffix: str, precision: str) -> tuple[Contender, Contender]:
        chosen = {"epochs": 1, "learning_rate": _RATE, "batch_size": 128, "precision": precision}
        defense = ImperceptibleBound.model_validate({"k": 1.0, "n": _PERTURBATIONS, **chosen})
        plainly = TrainingSettings.model_validate(chosen)
        clean_only = "as many clean images, and nothing else"
        return (
            trained(f"{OURS}{suffix}", "teacher's outputs once", defense.objective(inputs, 0), defense),
            trained(f"{ALONE}{suffix}", clean_only, _clean_images(inputs), plainly),
        )

    def plain(state: Classifier) -> Mapping[str, float]:
        sigma = torch.full((len(ids),), _SIGMA, device=on)
        peers.plain_defense(state, f1, as_input(pixels), sigma, _PERTURBATIONS, 128, _RATE)
        return {}

    batches = "DataLoader" if on.type == "cpu" else "batches indexed on the GPU"
    contenders = (
        *both("", "float32"),
        *both(", bf16", "bfloat16"),
        Contender("plain loop", plain, samples, f"{batches}, teacher in every step, float32", fresh),
    )
    title = "VGG16" if network.architecture == "vgg16" else f"small network (width {subject.width})"
    name = f"{subject.title}: defense epoch, {title}"
    return Case("trainings", name, "samples", samples, setting.threads, device_name(on), contenders)


def _clean_images(inputs: Inputs) -> Objective:
    """Cross entropy on every clean image, as often as the defense takes it."""
    once = supervised(inputs)

    def loss(network: InTraining, indices: Tensor, epoch: int) -> Tensor:
        return once.loss(network, indices % once.samples, epoch)

    return Objective(_PERTURBATIONS * once.samples, loss, once.is_steady)
