"""How fast a device trains, attacks and finds neighbours: a run each, on random images but in attacks."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import same
import torch
from same import Target, computing_on

from harness import attacks
from harness.attacks import Attack
from harness.data.datasets import Images
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.neighbours import nearest, nearest_gpu
from harness.networks import Architecture
from harness.networks.build import build
from harness.networks.classifier import to_tensor
from harness.networks.device import full_precision
from harness.networks.objective import Inputs
from harness.networks.training import Training

_N = 2  # perturbations of an image


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Images:
    """Of ten classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 10
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return Images(pixels, labels, np.arange(count, dtype=np.int64))


@dataclass(frozen=True)
class Trained:
    """``samples_per_s``; ``peak_share`` of what the device can do, ``peak_bytes`` of its memory; or None."""

    samples_per_s: float
    peak_share: float | None
    peak_bytes: int | None


def defense(
    architecture: Architecture, shape: tuple[int, int, int], on: torch.device, batch_size: int, steps: int
) -> Trained:
    """The paper's defense in bfloat16: an epoch of so many steps, after one like it that warms up."""
    with computing_on(on):
        training = _defense(architecture, shape, on, batch_size, steps)
        if on.type == "cuda":
            torch.cuda.reset_peak_memory_stats(on)
        training.run_epoch()
        row = training.run_epoch()
    held = torch.cuda.max_memory_allocated(on) if on.type == "cuda" else None
    return Trained(row["images_per_s"], row["peak_share"], held)


def profile(
    architecture: Architecture, shape: tuple[int, int, int], on: torch.device, batch_size: int, steps: int
) -> str:
    """The operations of so many of these steps that take longest, as a table."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on.type == "cuda" else [])
    with computing_on(on):
        training = _defense(architecture, shape, on, batch_size, steps)
        training.run_epoch()
        with profiled(activities=kinds) as measured:
            training.run_epoch()
    column = "self_cuda_time_total" if on.type == "cuda" else "self_cpu_time_total"
    return str(measured.key_averages().table(sort_by=column, row_limit=20, max_name_column_width=60))


def _defense(
    architecture: Architecture, shape: tuple[int, int, int], on: torch.device, batch_size: int, steps: int
) -> Training:
    data = random_images(max(1, steps * batch_size // _N), shape)
    settings = ImperceptibleBound.model_validate(
        {"k": 1.0, "n": _N, "epochs": 2, "learning_rate": 1e-4, "batch_size": batch_size}
        | {"precision": "bfloat16"}
    )
    network = build(architecture, data.pixels, 10, 0)
    pixels, labels, ids = (to_tensor(each, on) for each in (data.pixels, data.labels, data.ids))
    outputs = torch.zeros(len(ids), 10, device=on).log_softmax(1)
    inputs = Inputs(pixels, labels, ids, torch.full((len(ids),), 0.1, device=on), outputs)
    training = Training(network, settings.objective(inputs, 0), settings, 0, data.take(slice(0, 16)))
    training.start()
    return training


def attack(settings: Attack, target: Target, on: torch.device, count: int, batch_size: int) -> float:
    """Images a second, of images that the trained network did not see, repeated to so many."""
    full_precision()
    some = target.test.take(np.arange(count) % len(target.test.ids))
    x = same.as_input(to_tensor(some.pixels, on))
    ids = torch.arange(count, device=on)
    network = target.on(on)
    with torch.no_grad():
        labels = network(x).argmax(1)

    def run(part: slice) -> Any:
        (made,) = attacks.perturb(network, x[part], labels[part], ids[part], settings, 0, batch_size)
        return made.flatten(1).norm(dim=1).cpu()

    run(slice(0, min(count, 8)))
    began = time.perf_counter()
    run(slice(0, count))
    return count / (time.perf_counter() - began)


def bound(on: torch.device, count: int, shape: tuple[int, int, int]) -> float:
    """Differences of values a second over all pairs of so many images; exact for some of them."""
    data = random_images(count, shape)
    database = nearest_gpu.Database(data, None, on)
    database.search(data.take(slice(0, 8)), True)
    began = time.perf_counter()
    found = database.search(data, True)
    seconds = time.perf_counter() - began
    some = data.take(np.linspace(0, count - 1, 4).astype(np.int64))
    expected = nearest.search_tiled(some, data, True).any_class
    positions = some.ids
    assert np.array_equal(found.any_class.distance[positions], expected.distance), "distances differ"
    assert np.array_equal(found.any_class.id[positions], expected.id), "neighbours differ"
    return float(count) ** 2 * float(np.prod(shape)) / seconds
