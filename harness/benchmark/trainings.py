"""One epoch of the defense against the loop that a user would write first."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from harness import defense, networks, spec, training
from harness.benchmark import peers
from harness.benchmark.setting import SMOKE, Setting, Subject
from harness.benchmark.timing import OURS, Case, Contender

_PERTURBATIONS = 2
_SIGMA = 0.05
_RATE = 1e-4


def cases(setting: Setting) -> Iterator[Case]:
    """An epoch of the defense: VGG16 and the small network, on the last data set there is."""
    subject = setting.subjects[-1]
    for architecture in ("convnet",) if setting.sizes is SMOKE else ("vgg16", "convnet"):
        yield _epoch(
            setting,
            subject,
            spec.NetworkSpec.model_validate({"architecture": architecture, "width": subject.width}),
        )


def _epoch(setting: Setting, subject: Subject, network: spec.NetworkSpec) -> Case:
    samples = setting.sizes.samples
    dataset = setting.load(subject, samples // _PERTURBATIONS)
    train, test = dataset.train, dataset.test.take(np.arange(16))
    on, classes = setting.device, len(dataset.classes)
    pixels, labels, ids = (networks.to_tensor(value, on) for value in (train.pixels, train.labels, train.ids))

    def build() -> networks.Classifier:
        torch.set_num_threads(setting.threads)
        return networks.build(network, train.pixels, classes, 0).to(on)

    f1 = build().eval()
    with torch.inference_mode():
        teacher = torch.cat(
            [f1(networks.as_input(part)).log_softmax(1) for part in pixels.split(128)]
        ).clone()
    distance = torch.full((len(ids),), 2 * _SIGMA, device=on)

    def ours(name: str, precision: str) -> Contender:
        settings = spec.TrainingSpec.model_validate(
            {"epochs": 1, "learning_rate": _RATE, "batch_size": 128, "precision": precision}
        )

        def prepare() -> training.Training:
            inputs = training.Inputs(pixels, labels, ids, distance, teacher)
            objective = defense.objective(inputs, {"k": 1.0, "n": _PERTURBATIONS, "redraw": False, "seed": 0})
            run = training.Training(build(), objective, settings, 0, test)
            run.start()
            return run

        def run(state: training.Training) -> Mapping[str, float]:
            row = state.run_epoch()
            return {"seconds": samples / row["images_per_s"]}  # without the clean test that ends an epoch

        return Contender(name, run, samples, "teacher's outputs once", prepare)

    def plain(state: networks.Classifier) -> Mapping[str, float]:
        sigma = torch.full((len(ids),), _SIGMA, device=on)
        peers.plain_defense(state, f1, networks.as_input(pixels), sigma, _PERTURBATIONS, 128, _RATE)
        return {}

    contenders = (
        ours(OURS, "float32"),
        ours(f"{OURS}, bf16", "bfloat16"),
        Contender("plain loop", plain, samples, "DataLoader, teacher in every step, float32", build),
    )
    title = {"vgg16": "VGG16", "convnet": f"small network (width {network.width})"}[network.architecture]
    name = f"{subject.title}: defense epoch, {title}"
    return Case("trainings", name, "samples", samples, setting.threads, training.device_name(on), contenders)
