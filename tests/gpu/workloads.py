"""What the harness asks of a device, in small pieces: each is run on the CPU and on the pretend device.

``PYTHONPATH=tests python tests/gpu/workloads.py [WORD ...]`` prints launches and host syncs of those whose
names have all the words, as lines of the budget in ``test_pretend``.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import attack_cases
import brute_force
import numpy as np
import planted
import pretend
import torch
from attack_cases import CASES, FROM_OUTSIDE, like
from conftest import images, run_study, snapshot, tiny_study
from pretend import CPU, Work
from torch import Tensor, nn
from torchvision.models import VGG

from harness.attacks import ATTACKS, Attack, perturb
from harness.attacks.batch import logits
from harness.checks.robustness import Case, check_network
from harness.data import datasets
from harness.data.datasets import Dataset, Images
from harness.data.subset import DatasetSpec
from harness.defenses import DEFENSES
from harness.evaluation.blocks import attack_block
from harness.evaluation.certified import Smoothing
from harness.evaluation.smoothing import certify_block
from harness.neighbours import nearest, nearest_gpu
from harness.networks import Architecture, ConvNet, Vgg16
from harness.networks.build import build
from harness.networks.classifier import Classifier, as_input, from_tensors, to_tensor, to_tensors
from harness.networks.objective import Inputs, Objective, TrainingAttack, supervised
from harness.networks.randomised import Expected
from harness.networks.training import Training, TrainingSettings

Values = Mapping[str, Any]


@dataclass
class Place:
    """A device, and what was asked of it while ``counting``: in so many steps."""

    on: torch.device
    work: Work = field(default_factory=Work)
    counted: Work = field(default_factory=Work)
    steps: int = 0

    @contextmanager
    def counting(self, steps: int = 0) -> Iterator[None]:
        before = self.work.copy()
        yield
        self.counted = self.work.since(before)
        self.steps += steps

    def tensors(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(to_tensor(array, self.on) for array in arrays)


Workload = Callable[[Place], Values]


def on_cpu(workload: Workload) -> Values:
    """Its values where all is on the CPU."""
    with pretend.routed_to(CPU):
        return workload(Place(CPU))


def on_device(workload: Workload) -> tuple[Values, Place]:
    """Its values on the pretend device, and what it was asked. MixedDevices as ``pretended`` says."""
    with pretend.pretended() as work:
        place = Place(pretend.device(), work)
        return workload(place), place


# --- trainings: a step is one of the optimiser's ----------------------------------------------------------

_TRAINED_ON = images(0, 20, 3, shape=(3, 8, 8))
_EPSILON: dict[str, Any] = {"epsilon": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "imperceptible_bound": {"k": 2.0, "n": 1},
    "adversarial_images": {"sources": TrainingAttack(attack="fgsm", epsilon=0.1)},
    "pgd_training": _EPSILON | {"steps": 3},
    "trades": _EPSILON | {"steps": 3},
    "ensemble": _EPSILON,
    "no_noise": {"n": 1},
    "noise_labels": {"k": 2.0, "n": 1},
}
NETWORKS: dict[str, Architecture] = {"convnet": ConvNet(width=8), "vgg16": Vgg16()}


def _narrow_vgg16(weights: None = None) -> VGG:
    """torchvision's VGG16, an eighth as wide: as many operations."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        made = VGG(nn.Identity(), init_weights=False)
    narrow = [width if width == "M" else int(width) // 8 for width in cfgs["D"]]
    made.features = make_layers(narrow)
    drop = nn.Dropout()
    made.classifier = nn.Sequential(
        *(nn.Linear(64 * 49, 32), nn.ReLU(True), drop, nn.Linear(32, 4096), nn.ReLU(True), drop),
        nn.Linear(4096, 10),
    )
    return made


def _built(name: str, pixels: np.ndarray, classes: int, seed: int = 0) -> Classifier:
    with patch("torchvision.models.vgg16", _narrow_vgg16):
        return build(NETWORKS[name], pixels, classes, seed)


def _inputs(place: Place, network: str, seeds: tuple[int, ...]) -> Inputs:
    """Whatever a defense may ask for; other base networks of these seeds."""
    data, count = _TRAINED_ON, len(_TRAINED_ON.ids)
    rng = np.random.default_rng(1)
    outputs = np.log(rng.dirichlet(np.ones(3), count)).astype(np.float32)
    made = rng.random(data.pixels.shape, dtype=np.float32)
    others = [
        _built(network, data.pixels, 3, seed).to(place.on).eval().requires_grad_(False) for seed in (7, 8)
    ]
    return Inputs(
        *place.tensors(data.pixels, data.labels, data.ids),
        *place.tensors(np.full(count, 0.1, np.float32), outputs, made),
        tuple(other.eval().requires_grad_(False) for other in others),
    )


def _training(place: Place, method: str, network: str, precision: str, seed: int = 0) -> Training:
    settings: Any = {"epochs": 2, "batch_size": 8, "precision": precision}
    inputs = _inputs(place, network, (7, 8) if method == "ensemble" else ())
    if method == "base":
        spec, objective = TrainingSettings(**settings), supervised(inputs)
    else:
        spec = DEFENSES[method](**settings, **SETTINGS[method])
        objective = spec.objective(inputs, 3)
    assert isinstance(objective, Objective)
    built = _built(network, _TRAINED_ON.pixels, 3, seed)
    return Training(built, objective, spec, 5, _TRAINED_ON.take(slice(0, 1)))


def train(method: str, network: str, precision: str, place: Place) -> Values:
    """An epoch, its state, and another epoch in a training that was restored from it."""
    first = _training(place, method, network, precision)
    first.start()
    with place.counting(-(-first.objective.samples // first.settings.batch_size)):
        first.run_epoch()
    second = _training(place, method, network, precision, seed=1)
    second.restore(first.state(), first.rows)
    second.run_epoch()
    losses = np.array([row["loss"] for row in second.rows[1:]])
    return {"loss": losses, **second.state()}


def store_and_restore(network: str, place: Place) -> Values:
    """State and restore alone."""
    first, second = (_training(place, "base", network, "float32", seed) for seed in (0, 1))
    first.start()
    first.run_epoch()
    with place.counting(1):
        state = first.state()
        second.restore(state, first.rows)
    return second.state()


# --- attacks: a step is a pass of the network -------------------------------------------------------------


@cache
def _digits() -> Dataset:
    return datasets.load(DatasetSpec(source="digits"), None)


@cache
def _stored(name: str) -> dict[str, np.ndarray]:
    """Weights that are the same on every machine, as how often an attack steps depends on them.

    Small fractions, drawn; the small network's last layer is fitted to digits, in float64 and rounded.
    """
    network = _built(name, _digits().train.pixels, 10)
    rng, stored = np.random.default_rng(0), to_tensors(network)
    for key, value in stored.items():
        fan_in = value[0].size if value.ndim > 1 else 64
        drawn = rng.integers(-256, 257, value.shape) / 256 * 2.0 ** round(1.3 - np.log2(fan_in) / 2)
        stored[key] = drawn.astype(np.float32)
    for key, number in (("mean", 0.25), ("std", 0.5)):
        stored[key] = np.full(network.mean.shape, number, np.float32)
    if name == "convnet":
        stored |= _fitted(from_tensors(network, stored, CPU).double())
    return stored


def _fitted(network: Classifier) -> dict[str, np.ndarray]:
    """The last layer by ridge regression on the classes of 500 images."""
    shown = _digits().train.take(slice(0, 500))
    x = as_input(to_tensor(shown.pixels, CPU)).double()
    features = network.body[:-1]((x - network.mean) / network.std).numpy()
    features = np.hstack([features, np.ones((len(x), 1))])
    wanted = np.where(shown.labels[:, None] == np.arange(10), 8.0, -1.0)
    found = np.linalg.solve(features.T @ features + np.eye(features.shape[1]), features.T @ wanted)
    weights = (np.round(found.T * 1024) / 1024).astype(np.float32)
    last = f"body.{len(network.body) - 1}"
    return {f"{last}.weight": weights[:, :-1], f"{last}.bias": weights[:, -1]}


def _network(place: Place, name: str = "convnet") -> Classifier:
    """As everyone who attacks it has it; its passes are steps of what is counted."""

    def count(module: nn.Module, *rest: Any) -> None:
        place.steps += 1

    network = from_tensors(_built(name, _digits().train.pixels, 10), _stored(name), place.on)
    network.body.register_forward_hook(count)
    return network


def _shown(count: int = 8) -> Images:
    return _digits().test.take(slice(0, count))


def attack(settings: Attack, place: Place, network: str = "convnet", draws: int = 0) -> Values:
    """Its images for every radius; with ``draws``, of a network that draws."""
    shown = _shown()
    model: nn.Module = _network(place, network)
    pixels, ids = place.tensors(shown.pixels, shown.ids)
    x = as_input(pixels)
    labels = logits(model, x, len(x)).argmax(1)
    if draws:
        model = Expected(planted.noisy(0.1)(model), draws)
    place.steps = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with place.counting():
            made = perturb(model, x, labels, ids, settings, attack_cases.SEED, batch_size=4)
    return {str(radius): image.cpu().numpy() for radius, image in zip(settings.epsilons, made, strict=True)}


_LONGEST = {
    **{"steps": 8, "binary_search_steps": 2, "queries": 16},
    **{"ce_steps": 3, "targeted_steps": 3, "fab_steps": 3, "gamma": 0.1},
}
_NOT_NAMED = {*_LONGEST, "epsilon", "initial_constant", "overshoot"}


def _short(case: Attack) -> Attack:
    """In few steps, for one radius."""
    given = {name: getattr(case, name) for name in _LONGEST if name in type(case).model_fields}
    shorter = {name: min(value, _LONGEST[name]) for name, value in given.items()}
    return like(case.with_epsilons(case.epsilons[:1]), **shorter)


def attacks() -> dict[str, Attack]:
    """The harness's own and their variants, by what they differ in from the first of their method."""
    outside = {*attack_cases.NAMED, *FROM_OUTSIDE}
    found: dict[str, Attack] = {}
    first: dict[str, dict[str, Any]] = {}
    for case in map(_short, [case for case in CASES if case.method not in outside]):
        settings = case.model_dump(exclude=_NOT_NAMED)
        usual = first.setdefault(case.method, settings)
        differs = [f"{name}={value}" for name, value in settings.items() if value != usual[name]]
        name = " ".join([case.method, *differs])
        assert name not in found, f"two variants are both called '{name}'"
        found[name] = case
    return found


# --- checks, fragility, certificates ----------------------------------------------------------------------


def robustness(place: Place) -> Values:
    """The verdicts of all checks, one after the other."""
    shown = _shown()
    pixels, labels, ids = place.tensors(shown.pixels, shown.labels, shown.ids)
    network = _network(place)
    of = Case(network, as_input(pixels), labels, ids, 0.03, 0, 8, transfer=as_input(pixels))
    place.steps = 0
    with place.counting():
        found = check_network(of)
    return {verdict.check: tuple(asdict(verdict).values()) for verdict in found}


def fragility(place: Place) -> Values:
    """An attack on a block, with all that is measured of it."""
    network = _network(place)
    place.steps = 0
    with place.counting():
        settings = ATTACKS["deepfool"](method="deepfool", steps=5)
        how = (0, 5, None, True)
        ((rows, made),) = attack_block(network, _shown(), settings, "label", *how)
    return {"made": made, **{name: value for name, value in rows.items() if name != "attack_s"}}


def certify(place: Place) -> Values:
    network = _network(place)
    place.steps = 0
    with place.counting():
        smoothing = Smoothing(0.1, 10, 60, 0.01)
        rows = certify_block(network, _shown(3), (True, True, False), smoothing, 0, 256)
    return {str(position): tuple(row.values()) for position, row in enumerate(rows)}


# --- bound ------------------------------------------------------------------------------------------------


def _faiss(work: Work) -> Callable[[Tensor, Tensor], Tensor]:
    """FAISS's distances of rows of two tensors of the device, as ``pairwise_distance_gpu`` takes them."""

    def distances(queries: Tensor, rows: Tensor) -> Tensor:
        assert queries.dtype == rows.dtype == torch.float32
        assert all(tensor.is_contiguous() or tensor.t().is_contiguous() for tensor in (queries, rows))
        return pretend.launch(work, "faiss", _on_host, queries, rows)

    return distances


def _on_host(queries: Tensor, rows: Tensor) -> Tensor:
    return torch.from_numpy(nearest.distances(queries.numpy(), rows.numpy()))


def bound(name: str, indexed: bool, kernel: str, place: Place) -> Values:
    """Neighbours of all images of a case, by many small tiles."""
    data = brute_force.CASES[name]
    index = brute_force.scrambled_index(data, 0) if indexed else None
    found_by = (lambda: _faiss(place.work)) if kernel == "faiss" else (lambda: None)
    values = data.pixels[0].size
    sizes = {"TILE_BYTES": 4 * values * 16, "QUERY_BLOCK": 16, "PAIR_BYTES": 4 * values * 64}
    with patch.multiple(nearest_gpu, gpu_distances=found_by, **sizes), place.counting(1):
        database = nearest_gpu.Database(data, index, place.on)
        found = database.search(data, True)
    return {**brute_force.pairs(found), "pairs": found.work.pairs}


# --- all --------------------------------------------------------------------------------------------------


def study(place: Place) -> Values:
    """A whole tiny study, without workers: every cell."""
    smaller = {"dataset": {"source": "digits", "train_limit": 60, "test_limit": 16}}
    with tempfile.TemporaryDirectory() as folder, place.counting(1):
        run_study(tiny_study(), folder, **smaller)
        return snapshot(folder)


def _trainings() -> Iterator[tuple[str, Workload]]:
    for network in NETWORKS:
        for method in SETTINGS:
            some = network == "convnet" or method in ("base", "imperceptible_bound", "trades")
            for precision in ("float32", "bfloat16") if some else ("float32",):
                name = f"training {method}, {network}, {precision}"
                yield name, partial(train, method, network, precision)
        yield f"state and restore, {network}", partial(store_and_restore, network)


def _attacks() -> Iterator[tuple[str, Workload]]:
    for name, settings in attacks().items():
        yield f"attack {name}", partial(attack, settings)
    for name in ("pgd", "cw_l2"):
        yield f"attack {name}, vgg16", partial(attack, attacks()[name], network="vgg16")
    for name in ("pgd", "apgd_ce", "square"):
        yield f"attack {name}, drawing", partial(attack, attacks()[name], draws=3)


def _bounds() -> Iterator[tuple[str, Workload]]:
    for name in ("random", "ties everywhere", "sums past 2^24"):
        for indexed in (False, True):
            for kernel in ("torch", "faiss"):
                how = "filtered" if indexed else "all pairs"
                yield f"bound {name}, {how}, {kernel}", partial(bound, name, indexed, kernel)


WORKLOADS: dict[str, Workload] = {
    **dict(_trainings()),
    **dict(_attacks()),
    "robustness checks": robustness,
    "fragility": fragility,
    "certificates": certify,
    **dict(_bounds()),
    "study": study,
}


def row(name: str, place: Place) -> str:
    """What was counted, a step, and as a line of ``test_pretend.BUDGET``."""
    launches, syncs, steps = place.counted.launches, place.counted.syncs, place.steps
    line = f'"{name}": ({launches}, {syncs}),'
    return f"{steps:6} {launches / steps:10,.1f} {syncs / steps:10,.2f}    {line}"


def main() -> None:
    torch.set_num_threads(1)
    print(" steps launches/step syncs/step    launches and syncs in all")
    for name, workload in WORKLOADS.items():
        if all(word in name for word in sys.argv[1:]):
            print(row(name, on_device(workload)[1]), flush=True)


if __name__ == "__main__":
    main()
