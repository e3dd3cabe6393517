"""The checks of what a study takes from outside: all of them for `harness validate`, a part before work."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from harness import checks
from harness.attacks.attack import Attack
from harness.checks import AttackCase, DefenseCase, NetworkCase, Result
from harness.data import SOURCES, datasets
from harness.data.datasets import Dataset
from harness.defenses.defense import Defense
from harness.errors import HarnessError
from harness.evaluation.blocks import BATCHES_PER_BLOCK
from harness.networks.build import build
from harness.networks.classifier import Architecture, Classifier
from harness.networks.convnet import ConvNet
from harness.networks.device import device
from harness.study.costs import extent
from harness.study.spec import BASE, Study, network_name

# Kinds whose code is another library's, and not named by 'use'.
_LIBRARIES = {"torchvision", "timm", "foolbox", "art", "torchattacks"}


@dataclass(frozen=True)
class Outsiders:
    """What of a study is not the harness's own, by what messages call it; defenses with single settings."""

    networks: Mapping[str, Architecture]
    attacks: Mapping[str, Attack]
    defenses: Mapping[str, Defense]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which they are checked."""
        return (*self.networks, *self.attacks, *self.defenses)


def outsiders(study: Study) -> Outsiders:
    """Networks, attacks and defenses whose code or weights are others'."""
    networks = _networks(study)
    own = study.white_box.own
    attacks = {f"attack {name}": attack for name, attack in {**study.attacks, **own}.items()}
    defenses = {f"defense {network_name(*pair)}": pair[1] for pair in study.networks()}
    return Outsiders(
        {name: one for name, one in networks.items() if _is_foreign(one, one.architecture) or one.weights},
        {name: one for name, one in attacks.items() if _is_foreign(one, one.method)},
        {name: one for name, one in defenses.items() if _is_foreign(one, one.method)},
    )


def _networks(study: Study) -> dict[str, Architecture]:
    models = {f"model {name}": model for name, model in study.models.items()}
    return {f"network {BASE}": study.network, **models}


def _is_foreign(one: Architecture | Attack | Defense, word: str) -> bool:
    return one.package is not None or word in _LIBRARIES


# --- before work ------------------------------------------------------------------------------------


def check_networks(study: Study, data: Path | None, dataset: Callable[[], Dataset]) -> None:
    """See that the networks can be used at all; HarnessError with all that makes them useless.

    Those of the harness's own that start with drawn weights always can. Attacks and defenses are left for
    when they run: on a network without training an honest one may fail, and what fails there is its own
    cells alone. Of official data sets one image is read, where it is there; ``dataset`` reads others.
    """
    doubtful = {
        name: one
        for name, one in _networks(study).items()
        if one.initial_file() is not None or not one.takes_any_size
    }
    if not doubtful:
        return
    if SOURCES[study.dataset.source].extent is None:
        loaded = dataset()
        channels, height, width = loaded.train.pixels.shape[1:]
        classes = len(loaded.classes)
    else:
        size = extent(study, data)
        (channels, height, width), classes = size.shape, size.classes
    mistakes = []
    for name, one in doubtful.items():
        try:
            workers = _workers(study) if one is study.network else 1
            one.check(channels, (height, width), classes, workers)
        except HarnessError as error:
            mistakes.append(f"{name}: {error}")
    if mistakes:
        raise HarnessError("\n  ".join(["networks that can't be used:", *mistakes]))


def _workers(study: Study) -> int:
    """The most that train a network of the study's own at once."""
    trained = [settings for settings in (study.base, *study.defenses.values()) if settings.epochs]
    return max((settings.workers for settings in trained), default=1)


# --- validate ---------------------------------------------------------------------------------------


def validate(study: Study, data: Path | None, images: int, limit_s: float) -> Iterator[Result]:
    """Every check of everything from outside on so many test images, each for at most ``limit_s`` seconds.

    Raises HarnessError for data that can't be read.
    """
    there = outsiders(study)
    if not there.names:
        return
    datasets.prepare(study.dataset, data)
    dataset = datasets.load(study.dataset, data)
    torch.set_num_threads(1)  # as a worker has
    few = dataset.test.evenly(images)
    sound: dict[str, bool] = {}
    for name, architecture in there.networks.items():
        sizes = [study.batch_size]
        if architecture is study.network:
            sizes += [settings.batch_size for settings in (study.base, *study.defenses.values())]
        case = NetworkCase(architecture, dataset.train.pixels, few, len(dataset.classes), max(sizes))
        sound[name] = True
        for result in checks.results(name, case, checks.NETWORK_CHECKS, limit_s):
            sound[name] &= result.status != "failed"
            yield result
    is_sound = sound.get(f"network {BASE}", True)
    make_network = partial(_attacked, study, dataset, is_sound)
    block = min(BATCHES_PER_BLOCK * study.batch_size, len(dataset.test.ids))
    for name, attack in there.attacks.items():
        attacked = AttackCase(attack, make_network, few, study.protocol, block, study.compute.block_limit_s)
        yield from checks.results(name, attacked, checks.ATTACK_CHECKS, limit_s)
    for name, defense in there.defenses.items():
        defended = DefenseCase(defense, dataset.train.evenly(images), len(dataset.classes))
        yield from checks.results(name, defended, checks.DEFENSE_CHECKS, limit_s)


def _attacked(study: Study, dataset: Dataset, is_sound: bool) -> Classifier:
    """What attacks are tried on: the base network, not trained, or one of the harness's own where it fails.

    Weights from outside are in it; the harness's own need not be at hand.
    """
    architecture = study.network if is_sound else ConvNet(architecture="convnet")
    is_outside = architecture.package is not None or architecture.weights is not None
    network = build(architecture, dataset.train.pixels, len(dataset.classes), 0, initial=is_outside)
    return network.to(device()).to(memory_format=torch.channels_last).eval().requires_grad_(False)
