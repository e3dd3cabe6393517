"""Networks: logits and nothing else, that follow from the image, the weights and seeded draws alone."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks.guard import seeded
from harness.checks.check import ROUNDING, Check, Finding, difference, held
from harness.checks.gradients import cross_entropy_gradient, finite_difference, image_gradient, memory
from harness.data.datasets import Images
from harness.evaluation.randomised import DRAWS
from harness.networks.build import build
from harness.networks.classifier import (
    Architecture,
    Classifier,
    as_input,
    from_tensors,
    to_tensor,
    to_tensors,
)
from harness.networks.contract import is_probabilities, training_parts
from harness.networks.device import device

_SEEDS = (1, 2)  # of drawn weights
_SUMS = 1e-5  # within which log-probabilities are some
_SHOWN = 3  # of many names
_DRAWS = Finding("left out", "it draws: no two calls can be compared")


@dataclass(frozen=True)
class NetworkCase:
    """A network to check: built for the training images, tried on a few.

    ``pixels`` uint8 [N, C, H, W] are the training images, ``batch_size`` the most that it will be given.
    """

    architecture: Architecture
    pixels: np.ndarray
    images: Images
    classes: int
    batch_size: int

    @cached_property
    def network(self) -> Classifier:
        """As everyone who tests or attacks it has it."""
        built = build(self.architecture, self.pixels, self.classes, _SEEDS[0]).to(device())
        return built.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @cached_property
    def x(self) -> Tensor:
        """The images, float32 [B, C, H, W] in [0, 1]."""
        return as_input(to_tensor(self.images.pixels, device()))

    def logits(self, images: Tensor) -> Tensor:
        """Of these images, without a gradient."""
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits

    def drawn(self, network: nn.Module | None = None) -> Tensor:
        """Logits of the images, the global generators seeded: the same whenever it is called."""
        ids = torch.arange(1, device=self.x.device)
        with torch.no_grad(), seeded(_SEEDS[0], ids, None):
            logits: Tensor = (network or self.network)(self.x)
        return logits

    @cached_property
    def draws(self) -> bool:
        """Whether logits differ between calls."""
        return not torch.equal(self.logits(self.x), self.logits(self.x))

    @cached_property
    def _again(self) -> Classifier:
        return build(self.architecture, self.pixels, self.classes, _SEEDS[0])

    def state_again(self) -> dict[str, Tensor]:
        """Parameters and buffers of one that is built a second time, from the same seed."""
        return {name: value.to(device()) for name, value in self._again.state_dict().items()}

    def reloaded(self) -> Classifier:
        """One that is built from another seed, with the weights of the first as they are stored."""
        fresh = build(self.architecture, self.pixels, self.classes, _SEEDS[1], initial=False)
        return from_tensors(fresh, to_tensors(self.network), device())


def weights_of(network: nn.Module) -> dict[str, tuple[int, int, str]]:
    """Which tensors hold the weights and buffers, how often each was changed, and a digest of its values.

    The count misses what is done to ``.data``, the values what is undone.
    """
    return {
        name: (id(value), value._version, _digest(value))
        for name, value in (*network.named_parameters(), *network.named_buffers())
    }


def _digest(value: Tensor) -> str:
    in_bytes = value.detach().cpu().flatten().view(torch.uint8)
    return hashlib.sha256(in_bytes.numpy().tobytes()).hexdigest()


def few(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# --- the checks -------------------------------------------------------------------------------------


def _builds(case: NetworkCase) -> Finding:
    count = sum(value.numel() for value in case.network.parameters())
    return Finding("ok", f"{count:,} weights")


def _factory(case: NetworkCase) -> Finding:
    first, second = case.network.state_dict(), case.state_again()
    shapes = [{name: list(value.shape) for name, value in state.items()} for state in (first, second)]
    differing = [name for name in {**first, **second} if shapes[0].get(name) != shapes[1].get(name)]
    return held(not differing, f"two that differ in {few(differing)}")


def _seeded(case: NetworkCase) -> Finding:
    second = case.state_again()
    differing = [
        name for name, value in case.network.state_dict().items() if not torch.equal(value, second[name])
    ]
    return held(not differing, f"other values of {few(differing)}")


def _logits(case: NetworkCase) -> Finding:
    made = case.logits(case.x)
    if not isinstance(made, Tensor):
        return Finding("failed", f"{type(made).__name__}")
    expected = (len(case.x), case.classes)
    came = f"{str(made.dtype).removeprefix('torch.')} {list(made.shape)}"
    if (tuple(made.shape), made.dtype) != (expected, torch.float32):
        return Finding("failed", f"{came}, where {list(expected)} belongs to {case.classes} classes")
    return held(bool(made.isfinite().all()), f"values that are not finite: {_first(made)}")


def _scores(case: NetworkCase) -> Finding:
    made = case.logits(case.x)
    if is_probabilities(made):
        return Finding("failed", f"rows without a value below 0 that sum to {made[0].sum().item():g}")
    if made.logsumexp(1).abs().max() < _SUMS:
        return Finding("note", "log-probabilities: classes and cross-entropy are the same, margins are not")
    return Finding("ok")


def _mode(case: NetworkCase) -> Finding:
    case.logits(case.x)
    return held(not training_parts(case.network), f"training mode in {few(training_parts(case.network))}")


def _repeated(case: NetworkCase) -> Finding:
    if not case.draws:
        return Finding("ok")
    change = f"a difference of {difference(case.logits(case.x), case.logits(case.x)):.2g} of the largest"
    if torch.equal(case.drawn(), case.drawn()):
        return Finding("note", f"{change}: it draws, and is judged by the mean of {DRAWS} draws")
    return Finding("failed", f"{change}, also from one seed of torch, numpy and random")


def _batch(case: NetworkCase) -> Finding:
    if case.draws:
        return _DRAWS
    together = case.logits(case.x)
    others = {
        "alone": torch.cat([case.logits(image) for image in case.x.split(1)]),
        "in another order": case.logits(case.x.flip(0)).flip(0),
    }
    changes = {how: difference(together, logits) for how, logits in others.items()}
    how = max(changes, key=lambda name: changes[name])
    return held(changes[how] <= ROUNDING, f"a difference of {changes[how]:.2g} of the largest, {how}")


def _range(case: NetworkCase) -> Finding:
    noise = torch.rand(case.x.shape, generator=torch.Generator().manual_seed(0)).to(case.x.device)
    tried = {"black": torch.zeros_like(case.x), "white": torch.ones_like(case.x), "noise": noise}
    for name, images in tried.items():
        logits = case.logits(images)
        if not logits.isfinite().all():
            return Finding("failed", f"{_first(logits)} of images of {name}")
    return Finding("ok")


def _unchanged(case: NetworkCase) -> Finding:
    before = weights_of(case.network)
    case.logits(case.x)
    with torch.enable_grad():
        case.network(case.x.clone().requires_grad_())
    after = weights_of(case.network)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return held(not changed, f"changes of {few(changed)}")


def _stored(case: NetworkCase) -> Finding:
    change = difference(case.drawn(), case.drawn(case.reloaded()))
    return held(
        change == 0, f"a difference of {change:.2g} of the largest: what it computes with is not stored"
    )


def _first(logits: Tensor) -> str:
    return str(logits[~logits.isfinite()][:_SHOWN].tolist())


def _of(network_check: Callable[..., Finding]) -> Callable[[NetworkCase], Finding]:
    """A check of ``gradients``, which takes the network and what it is given."""

    def find(case: NetworkCase) -> Finding:
        return network_check(case.network, case.x)

    return find


def _difference(case: NetworkCase) -> Finding:
    return _DRAWS if case.draws else finite_difference(case.network, case.x)


def _memory(case: NetworkCase) -> Finding:
    return memory(case.network, case.x, case.batch_size)


_CALLED = ("build", "logits")
NETWORK_CHECKS: tuple[Check[NetworkCase], ...] = (
    Check("build", "a network for these images", _builds),
    Check("factory", "a new module of the same architecture at every call", _factory, ("build",)),
    Check("seed", "weights drawn from torch's generator alone", _seeded, ("build", "factory")),
    Check("logits", "finite float32 [images, classes]", _logits, ("build",)),
    Check("scores", "logits, no probabilities", _scores, _CALLED),
    Check("eval mode", "every part in eval mode after a call", _mode, _CALLED),
    Check("weights", "parameters and buffers as they were after a call", _unchanged, _CALLED),
    Check("repeat", "the same logits of the same images, bit for bit", _repeated, _CALLED),
    Check(
        "batch", f"logits of an image within {ROUNDING:g}, whatever its company", _batch, (*_CALLED, "repeat")
    ),
    Check("range", "finite logits of all images in [0, 1]", _range, _CALLED),
    Check("gradient", "a finite gradient to each image, not all 0", _of(image_gradient), _CALLED),
    Check(
        "cross-entropy",
        "a gradient of each image's cross-entropy, not all 0",
        _of(cross_entropy_gradient),
        (*_CALLED, "gradient"),
    ),
    Check(
        "difference",
        "the gradient to tell what a small step does",
        _difference,
        (*_CALLED, "repeat", "batch", "gradient"),
    ),
    Check(
        "storage",
        "the same logits, bit for bit, from stored weights",
        _stored,
        (*_CALLED, "factory", "repeat"),
    ),
    Check("memory", "less than this machine has for a batch in training", _memory, _CALLED),
)
