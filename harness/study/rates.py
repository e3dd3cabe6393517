"""How fast a worker trains and attacks a study's network: measured here, or reckoned for another machine.

Reckoned means counted: floating-point operations over an assumed share of the machine's peak, or launches at
an assumed time each, whichever takes longer.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack, perturb
from harness.attacks.batch import differentiable
from harness.attacks.gradient_sign import Fgsm
from harness.data.datasets import Images
from harness.data.source import Extent
from harness.networks.build import build
from harness.networks.classifier import Classifier, as_input, predict, to_tensor
from harness.networks.counted import flops, launches
from harness.networks.device import PEAK_TERAFLOPS, device, device_name
from harness.networks.objective import Inputs, supervised
from harness.networks.training import Training, TrainingSettings
from harness.study.spec import Study

GPUS = tuple(PEAK_TERAFLOPS)

_CALIBRATION_S = 1.0  # of measuring each rate
_CPU_BATCH = 128  # images on which a CPU is measured: more at once are no faster there
# Of the peak that convolutions reach in batches of hundreds, from 5.7 ms for PGD's gradient of 128 images by
# VGG16 at 32 x 32 in float32, and 1.7 ms for a training step in bfloat16: assumed, not measured.
_SHARE_OF_PEAK = {"float32": 0.4, "bfloat16": 0.15}
_LAUNCH_S = 5e-6  # of the host's time: assumed
_REPLAYED = 2  # launches of a step that is a CUDA graph: its images' positions, and itself
_NOISE_LAUNCHES = 12  # of a training step with noise that is drawn as one kernel
_COUNTED_IMAGES = 2  # in a batch whose work is counted
_COUNTED_STEPS = 8  # of an attack's: each asks for the same
_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Rate:
    """An image takes ``image_s`` of computing; a ``batch`` of them ``host_s`` of asking for it meanwhile."""

    image_s: float
    host_s: float = 0.0
    batch: int = 1

    def seconds(self, images: float, beside_s: float = 0.0) -> float:
        """For so many images, in full batches; ``beside_s``: what else the host asks for with each."""
        return images * max(self.image_s, (self.host_s + beside_s) / self.batch)


@dataclass(frozen=True)
class StartUp:
    """Seconds that pass beside the work: once a study until Ray answers (``cluster_s``) and after the last
    step, for MLflow and the tables (``closing_s``); a step, until new workers work (``workers_s``) or those
    of a Tune sweep (``sweep_s``); of the driver, a cell that it writes (``cell_s``).
    """

    cluster_s: float
    workers_s: float
    sweep_s: float
    cell_s: float
    closing_s: float


# Measured with the study `quick` on two idle cores of an AMD EPYC (Zen 4), Ray started there.
HERE = StartUp(cluster_s=4.0, workers_s=0.8, sweep_s=0.9, cell_s=0.008, closing_s=4.5)
# A cluster that is there: its workers import torch anew and start CUDA. Assumed.
ELSEWHERE = StartUp(cluster_s=2.0, workers_s=12.0, sweep_s=14.0, cell_s=0.008, closing_s=10.0)


def _nothing_beside(_: Attack) -> float:
    return 0.0


@dataclass(frozen=True)
class Rates:
    """What one worker takes for an image, and where that comes from.

    ``trained`` and ``gradients`` (to the image, with the forward pass) by precision. ``beside_s``: the host's
    seconds, a batch and gradient, for an attack's own operations. ``uses_gpu``: workers are GPUs.
    """

    trained: Mapping[str, Rate]
    gradients: Mapping[str, Rate]
    forwards: Rate
    source: str
    start_up: StartUp = HERE
    beside_s: Callable[[Attack], float] = _nothing_beside
    uses_gpu: bool = False

    def training_s(self, settings: TrainingSettings, samples: float) -> float:
        """Of so many samples, each with the gradients that its objective takes beside a step."""
        inner = self.gradients[settings.precision].seconds(samples * settings.gradients_per_sample)
        return self.trained[settings.precision].seconds(samples) + inner

    def attack_s(self, attack: Attack, gradients: float) -> float:
        """Of so many gradients for single images, which an attack takes in full batches."""
        precision = getattr(attack, "gradients", "float32")
        return self.gradients[precision].seconds(gradients, self.beside_s(attack))


def untrained(study: Study, size: Extent) -> Classifier:
    """The study's network, freshly initialised: the file of weights that it may start with is not read."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, *size.shape)).astype(np.uint8)
    return build(study.network, pixels, size.classes, 0, initial=False)


def usual_training(study: Study) -> TrainingSettings:
    """The settings of the trainings that a study has most of."""
    return next((settings for _, settings in study.networks()), study.base)


# --- measured -----------------------------------------------------------------------------------------


def measured(study: Study, size: Extent) -> Rates:
    """Of one worker here, with the study's network, on random images; some seconds."""
    on = device()
    sample = _Sample.of(min(study.batch_size, _CPU_BATCH) if on.type == "cpu" else study.batch_size, size, on)
    network = untrained(study, size)
    frozen = network.to(sample.x.device).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gradients = {precision: _gradients(frozen, sample, precision) for precision in _attacked(study)}
    forwards = _measured(len(sample.pixels), lambda: predict(frozen, sample.pixels, 128, sample.x.device))
    usual = usual_training(study)
    torch.set_num_threads(usual.threads)
    trained = {precision: _trained(network, sample, usual, precision) for precision in _trainings(study)}
    torch.set_num_threads(threads)
    source = f"measured on {device_name(sample.x.device)}"
    return Rates(trained, gradients, forwards, source, uses_gpu=sample.x.device.type == "cuda")


@dataclass(frozen=True)
class _Sample:
    """Random images: uint8 on the host, and what is asked of a network on the device."""

    pixels: np.ndarray
    images: Images
    x: Tensor
    labels: Tensor
    ids: Tensor

    @staticmethod
    def of(count: int, size: Extent, on: torch.device) -> "_Sample":
        pixels = np.random.default_rng(0).integers(0, 256, (count, *size.shape)).astype(np.uint8)
        images = Images(pixels, np.arange(count) % size.classes, np.arange(count))
        x, labels, ids = (to_tensor(values, on) for values in (pixels, images.labels, images.ids))
        return _Sample(pixels, images, x, labels, ids)


def _attacked(study: Study) -> set[str]:
    """In which the study's attacks, and the inner ones of its trainings, take gradients."""
    attacks: list[Any] = [*study.attacks.values(), study.white_box, *study.white_box.own.values()]
    return {"float32", *(getattr(attack, "gradients", "float32") for attack in attacks), *_trainings(study)}


def _trainings(study: Study) -> set[str]:
    """In which precisions the study trains."""
    trainings = [study.base, *(settings for _, settings in study.networks())]
    trainings += [settings for _, settings in study.controls_trained()]
    return {settings.precision for settings in trainings}


def _gradients(network: Classifier, sample: _Sample, precision: str) -> Rate:
    fgsm = Fgsm.model_validate({"method": "fgsm", "epsilon": (0.1,)})
    through = differentiable(network, precision).eval()
    x = as_input(sample.x)
    return _measured(len(x), lambda: perturb(through, x, sample.labels, sample.ids, fgsm, 0))


def _trained(network: Classifier, sample: _Sample, usual: TrainingSettings, precision: str) -> Rate:
    settings = usual.model_copy(update={"epochs": 1, "precision": precision})
    objective = supervised(Inputs(sample.x, sample.labels, sample.ids))
    training = Training(network, objective, settings, 0, sample.images.take(slice(0, 1)))
    training.start()
    return _measured(len(sample.pixels), training.run_epoch)


def _measured(images: int, work: Callable[[], Any]) -> Rate:
    work()
    began, rounds = time.perf_counter(), 0
    while rounds < 2 or time.perf_counter() - began < _CALIBRATION_S:
        work()
        rounds += 1
    return Rate((time.perf_counter() - began) / (images * rounds))


# --- reckoned -----------------------------------------------------------------------------------------


def assumed(study: Study, size: Extent, tflops: float) -> Rates:
    """Of a worker that does so many TFLOP/s on this network, whatever it does."""
    work = _Work.of(study, size)
    step, gradient, forward = (
        Rate(asked.flops / (tflops * 1e12)) for asked in (work.trained, work.gradient, work.forward)
    )
    trained, gradients = (dict.fromkeys(_PRECISIONS, rate) for rate in (step, gradient))
    return Rates(trained, gradients, forward, f"assumed {tflops:g} TFLOP/s a worker")


def on_gpu(study: Study, size: Extent, gpu: str) -> Rates:
    """Of one of ``GPUS``: floating-point operations and launches are counted, what they take is assumed."""
    work = _Work.of(study, size)
    peaks = {precision: teraflops * 1e12 for precision, teraflops in PEAK_TERAFLOPS[gpu].items()}

    def rate(asked: _Asked, precision: str, batch: int, host_launches: int) -> Rate:
        speed = peaks.get(precision, peaks["float32"]) * _SHARE_OF_PEAK[precision]
        return Rate(asked.flops / speed, host_launches * _LAUNCH_S, batch)

    step, gradient, forward = work.trained, work.gradient, work.forward
    usual, attacked = usual_training(study).batch_size, study.batch_size
    in_step = _REPLAYED if study.compute.cuda_graphs else step.launches + _NOISE_LAUNCHES
    shares = ", ".join(f"{share:.0%} of the peak in {name}" for name, share in _SHARE_OF_PEAK.items())
    return Rates(
        trained={name: rate(step, name, usual, in_step) for name in _PRECISIONS},
        gradients={name: rate(gradient, name, attacked, gradient.launches) for name in _PRECISIONS},
        forwards=rate(forward, "float32", attacked, forward.launches),
        source=f"reckoned for {gpu}: counted FLOP at {shares}, launches at {1e6 * _LAUNCH_S:g} us (assumed)",
        start_up=ELSEWHERE,
        beside_s=cache(lambda attack: _own_launches(attack, size) * _LAUNCH_S),
        uses_gpu=True,
    )


@dataclass(frozen=True)
class _Asked:
    """FLOP an image, and launches a batch of whatever size."""

    flops: float
    launches: int

    @staticmethod
    def of(work: Callable[[], object]) -> "_Asked":
        """By work on ``_COUNTED_IMAGES``."""
        return _Asked(flops(work) / _COUNTED_IMAGES, launches(work))


@dataclass(frozen=True)
class _Work:
    """What a network asks for: in a training step, for a gradient to the image, in a forward pass."""

    trained: _Asked
    gradient: _Asked
    forward: _Asked

    @staticmethod
    def of(study: Study, size: Extent) -> "_Work":
        network = untrained(study, size).eval()
        x = torch.rand(_COUNTED_IMAGES, *size.shape)
        weights = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, fused=True)

        def step() -> None:
            optimizer.zero_grad()
            network(x).logsumexp(1).sum().backward()
            optimizer.step()

        step()  # the first makes the optimizer's moments
        trained = _Asked.of(step)
        for weight in weights:
            weight.requires_grad_(False)
        wanted = x.clone().requires_grad_()
        gradient = _Asked.of(
            lambda: torch.autograd.grad(network(wanted.view_as(wanted)).logsumexp(1).sum(), wanted)
        )
        with torch.no_grad():
            return _Work(trained, gradient, _Asked.of(lambda: network(x)))


def _own_launches(attack: Attack, size: Extent) -> float:
    """An attack's operations beside those of the network, a gradient: counted with a linear network.

    Of an attack from outside none: what it does is not known without running it on the network itself.
    """
    if attack.package:
        return 0.0
    network = _Linear(size).eval()
    x = torch.rand(_COUNTED_IMAGES, *size.shape, generator=torch.Generator().manual_seed(0))
    labels, ids = network(x).argmax(1), torch.arange(len(x))
    few = {"steps": _COUNTED_STEPS, "queries": _COUNTED_STEPS, "binary_search_steps": 1}
    given = {name: getattr(attack, name) for name in few if getattr(attack, name, None)}
    update: dict[str, Any] = {name: min(few[name], count) for name, count in given.items()}
    if hasattr(attack, "gradients"):
        update["gradients"] = "float32"  # the stand-in has no other
    fewer = attack.model_copy(update=update)
    wanted = x.clone().requires_grad_()
    alone = launches(lambda: torch.autograd.grad(network(wanted).sum(), wanted))
    network.gradients = network.forwards = 0
    asked_for = launches(lambda: perturb(network, x, labels, ids, fewer, 0))
    passes = network.gradients or network.forwards
    return max(0.0, asked_for / max(1, passes) - alone)


class _Linear(nn.Module):
    """A stand-in for a network, which asks for little, and counts its passes and its gradients."""

    def __init__(self, size: Extent) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(size.classes, size.values, generator=generator)
        self.gradients = self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        logits = x.flatten(1) @ self.weight.T
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1
