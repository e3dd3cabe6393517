"""The attacks against Foolbox, ART and torchattacks.

All get the same images and the same network, on one CPU thread each (or one GPU). What counts beside the
time: the share of images that left their class, and the mean l2 distance of those; both are measured here, in
float32, on the images that came back. Another row is of no attack: its network alone, as it is asked by the
harness's.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from harness.attacks import ATTACKS
from harness.attacks.attack import perturb
from harness.attacks.saliency_map import jsma_targets
from harness.benchmark import passes, peers
from harness.benchmark.setting import Setting, Subject
from harness.benchmark.timing import ALONE, OURS, Case, Contender
from harness.networks.classifier import Classifier, as_input, to_tensor
from harness.networks.device import device_name

_SEED = 0
_BF16 = {"gradients": "bfloat16"}
_WARM = {
    "warm_start": True,
    "binary_search_steps": 8,
    "steps": 32,
    "learning_rate": 0.1,
    "initial_constant": 1.0,
}
_EQUAL = 1e-5  # largest difference of a value between images that are the same
# What all contenders should agree on: the images, or which of them left their class.
_Agreement = Literal["images", "outcome"]
_SMALL = 1024  # values of an image that the slow peers can be asked to attack


@dataclass(frozen=True)
class _Duel:
    """One attack: the harness's settings, what its variants change in them, and what others offer."""

    name: str
    settings: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    others: Mapping[str, peers.PeerAttack] = field(default_factory=dict)
    slow: bool = False
    lasting: bool = False  # minutes of work: fewer images still, and warmed up by one of them
    agreement: _Agreement | None = None
    epsilons: Callable[[Subject], tuple[float, ...]] = lambda subject: ()


_DUELS = (
    _Duel(
        "FGSM, 4 epsilons",
        {"method": "fgsm"},
        {},
        {"Foolbox": peers.foolbox_fgsm},
        agreement="images",
        epsilons=lambda subject: subject.epsilons,
    ),
    _Duel(
        "PGD, 40 steps",
        {"method": "pgd", "steps": 40},
        {"bf16": _BF16, "bf16, early stop": {**_BF16, "engine": "early_stop"}},
        {"Foolbox": peers.foolbox_pgd},
        epsilons=lambda subject: subject.epsilons[2:3],
    ),
    _Duel(
        "DeepFool, the authors' rule",
        {"method": "deepfool", "steps": 50, "overshoot": 0.02, "rule": "authors"},
        {"bf16": _BF16},
        {"Foolbox": peers.foolbox_deepfool},
    ),
    _Duel(
        "DeepFool, ART's rule",
        {"method": "deepfool", "steps": 100, "overshoot": 1e-6},
        {"bf16": _BF16},
        {"ART": peers.art_deepfool},
        slow=True,
    ),
    _Duel("DDN, 100 steps", {"method": "ddn"}, {"bf16": _BF16}),
    _Duel(
        "C&W l2",
        {"method": "cw_l2", "binary_search_steps": 5, "steps": 200},
        {"warm start": _WARM, "warm start, bf16": {**_WARM, **_BF16}},
        {"Foolbox": peers.foolbox_cw, "ART": peers.art_cw},
        slow=True,
    ),
    _Duel("JSMA, ART's rule", {"method": "jsma"}, {}, {"ART": peers.art_jsma}, slow=True, agreement="images"),
    _Duel(
        "JSMA, Papernot's pairs",
        {"method": "jsma_pairs", "gamma": peers.TORCHATTACKS_GAMMA},
        {},
        {"torchattacks": peers.torchattacks_jsma},
        slow=True,
        agreement="images",
    ),
    _Duel(
        "AutoAttack, where images survive",
        {"method": "autoattack"},
        {"bf16": _BF16, "quick": {"schedule": "quick"}},
        {"torchattacks": peers.torchattacks_autoattack},
        lasting=True,
        agreement="outcome",
        epsilons=lambda subject: subject.epsilons[1:2],
    ),
    _Duel(
        "AutoAttack, where all fall",
        {"method": "autoattack"},
        {"quick": {"schedule": "quick"}},
        {"torchattacks": peers.torchattacks_autoattack},
        slow=True,
        agreement="outcome",
        epsilons=lambda subject: subject.epsilons[3:],
    ),
)
_PACKAGES = {"Foolbox": "foolbox", "ART": "art", "torchattacks": "torchattacks"}


def cases(setting: Setting) -> Iterator[Case]:
    """Every attack on every data set; the slow ones where images are small."""
    for subject in setting.subjects:
        network, test, accuracy = setting.network(subject)
        for duel in _DUELS:
            if (duel.slow or duel.lasting) and test.pixels[0].size > _SMALL:
                continue
            count = _count(setting, duel)
            if not count:
                continue
            some = test.take(slice(0, count))
            target = _Target(network, some, accuracy, setting.device)
            yield _case(setting, duel, subject, target)


def _count(setting: Setting, duel: _Duel) -> int:
    """How many images are attacked."""
    if duel.lasting:
        return setting.sizes.attacked_at_length
    return setting.sizes.attacked_slowly if duel.slow else setting.sizes.attacked


class _Target:
    """A network and the images that are attacked, on the device; judges what comes back."""

    def __init__(self, network: Classifier, images: Any, accuracy: float, on: torch.device) -> None:
        self.network, self.accuracy = network, accuracy
        # As users hand a network over: torch's usual layout, weights that want gradients.
        self.plain = deepcopy(network).to(memory_format=torch.contiguous_format).requires_grad_(True)
        # White is 1 to all: torchattacks takes 0.99 for saturated already.
        x = as_input(to_tensor(images.pixels, on))
        self.x = torch.where(x >= 0.99, 1.0, x)
        self.ids = to_tensor(images.ids, on)
        with torch.no_grad():
            logits = network(self.x)
        self.labels = logits.argmax(1)
        self.targets = jsma_targets(self.labels, self.ids, logits.shape[1], _SEED)
        self.ours: list[Tensor] = []  # what the harness made, for ``judge`` to compare with

    def judge(self, made: list[Tensor], agreement: _Agreement | None) -> Mapping[str, float]:
        """Qualities of the images that came back, float32 [N, C, H, W] for each radius.

        The share that left their class, the mean l2 distance of those; where all contenders should agree,
        the share of images on which this one does with the harness's first.
        """
        left = [self.left(batch) for batch in made]
        distances = [
            (batch - self.x).flatten(1).norm(dim=1)[gone] for batch, gone in zip(made, left, strict=True)
        ]
        distance = torch.cat(distances)
        qualities = {"fooled": torch.stack(left).float().mean().item(), "accuracy": self.accuracy}
        if len(distance):
            qualities["l2"] = distance.mean().item()
        if agreement:
            equal = [self._equal(*pair, agreement) for pair in zip(made, self.ours, strict=True)]
            qualities["agreement"] = torch.stack(equal).float().mean().item()
        return qualities

    def left(self, batch: Tensor) -> Tensor:
        """Which images are of another class now, bool [N]."""
        with torch.no_grad():
            return self.network(batch).argmax(1) != self.labels

    def _equal(self, made: Tensor, ours: Tensor, agreement: _Agreement) -> Tensor:
        """On which images two contenders agree, bool [N]."""
        if agreement == "outcome":
            return self.left(made) == self.left(ours)
        return (made - ours).abs().flatten(1).amax(1) < _EQUAL


def _case(setting: Setting, duel: _Duel, subject: Subject, target: _Target) -> Case:
    torch.set_num_threads(1)
    threads = 1 if setting.device.type == "cpu" else setting.threads
    epsilons, batch_size = duel.epsilons(subject), setting.sizes.batch
    variants = {"": {}, **duel.variants}
    contenders = [
        _ours(target, duel, epsilons, batch_size, variant, changes) for variant, changes in variants.items()
    ]
    if not duel.lasting:
        contenders.append(_passes_alone(target, contenders[0]))
    contenders += [
        _theirs(target, duel, peer, call, epsilons, batch_size) for peer, call in duel.others.items()
    ]
    name, device = f"{subject.title}: {duel.name}", device_name(setting.device)
    return Case("attacks", name, "images", len(target.x), threads, device, tuple(contenders))


def _ours(
    target: _Target,
    duel: _Duel,
    epsilons: tuple[float, ...],
    batch_size: int,
    variant: str,
    changes: Mapping[str, Any],
) -> Contender:
    radii = {"epsilon": epsilons} if epsilons else {}
    settings: Any = ATTACKS[duel.settings["method"]].model_validate({**duel.settings, **radii, **changes})

    def made(size: int) -> list[Tensor]:
        x, labels, ids = target.x[:size], target.labels[:size], target.ids[:size]
        return perturb(target.network, x, labels, ids, settings, _SEED, batch_size)

    def run(_: Any) -> Mapping[str, float]:
        images = made(len(target.x))
        if not variant:
            target.ours = images
        return target.judge(images, duel.agreement if variant else None)

    chosen = {name: value for name, value in {**duel.settings, **changes}.items() if name != "method"}
    note = ", ".join(f"{name} {value}" for name, value in chosen.items())
    warm_up = (lambda: made(1)) if duel.lasting else None
    name = f"{OURS}, {variant}" if variant else OURS
    return Contender(name, run, len(target.x), note, warm_up=warm_up)


def _passes_alone(target: _Target, attack: Contender) -> Contender:
    """The batches and gradients of the harness's attack, asked of the network again and nothing else."""
    calls: list[passes.Pass] = []
    attacked = attack.run
    assert attacked is not None, "the harness's own attacks need no package"

    def prepare() -> None:
        if not calls:
            calls.extend(passes.recorded(target.network, lambda: attacked(None)))

    def run(_: Any) -> Mapping[str, float]:
        passes.replay(target.network, target.x, calls)
        return {}

    note = "the harness's batches and gradients, and nothing else"
    return Contender(ALONE, run, len(target.x), note, prepare)


def _theirs(
    target: _Target,
    duel: _Duel,
    peer: str,
    call: peers.PeerAttack,
    epsilons: tuple[float, ...],
    batch_size: int,
) -> Contender:
    def made(size: int) -> list[list[Tensor]]:
        split = [value[:size].split(batch_size) for value in (target.x, target.labels, target.targets)]
        batches = zip(*split, strict=True)
        return [call(target.plain, x, labels, targets, epsilons) for x, labels, targets in batches]

    def run(_: Any) -> Mapping[str, float]:
        by_radius = [torch.cat(images) for images in zip(*made(len(target.x)), strict=True)]
        return target.judge(by_radius, duel.agreement)

    lacking = peers.lacking(_PACKAGES[peer])
    note = lacking or " ".join((call.__doc__ or "").split())
    warm_up = (lambda: made(1)) if duel.lasting else None
    return Contender(peer, None if lacking else run, len(target.x), note, warm_up=warm_up)
