"""``harness.attack``: an attack on any network, measured on the images that it made."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from harness.attacks import ATTACKS
from harness.attacks.attack import Attack, Protocol, norms
from harness.attacks.batch import logits
from harness.errors import HarnessError, did_you_mean
from harness.evaluation.randomised import draws_of, fresh, judged, perturbed
from harness.extensions import FOREIGN
from harness.library.bound import Bound, as_array
from harness.networks.classifier import as_input
from harness.networks.device import full_precision
from harness.settings import Mistakes, validated


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack made of N images, and what was measured on them.

    ``images`` float32 [N, C, H, W] in [0, 1] on the device of those that were given. ``predicted`` and
    ``adversarial_predicted`` int64 [N]: the network's classes of the images before and after. Sizes of the
    changes, each [N]: ``l0`` int32, values changed; ``mean_l1`` float64, mean absolute change of a value,
    comparable with sigma; ``l1`` float64, the sum of the absolute changes; ``l2`` float64, Euclidean over all
    values; ``linf`` float64, the largest absolute change. ``seconds``: of the attack alone, for all images.
    ``draws``: of a network that draws at random, how many fresh draws its classes are the mean of, else None.
    """

    images: Tensor
    predicted: np.ndarray
    adversarial_predicted: np.ndarray
    l0: np.ndarray
    mean_l1: np.ndarray
    l1: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    seconds: float
    draws: int | None = None

    @property
    def fooled(self) -> np.ndarray:
        """bool [N]: whether the network gives the adversarial image another class than the clean one."""
        fooled: np.ndarray = self.adversarial_predicted != self.predicted
        return fooled


def attack(
    network: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    method: str = "deepfool",
    *,
    epsilon: float | str | None = None,
    seed: int = 0,
    ids: Tensor | np.ndarray | None = None,
    batch_size: int = 128,
    protocol: Protocol = "label",
    **settings: Any,
) -> Attacked:
    """Attack a network, and measure what came of it.

    Args:
        network: in eval mode, images in [0, 1] to logits [B, classes]; left as it was.
        images: float32 [N, C, H, W] in [0, 1] on the network's device, or uint8, which are divided by 255.
            Arrays are put on the device of the network's weights.
        labels: integers [N], the true classes.
        method: a word of a study's attacks (fgsm, pgd, deepfool, jsma, jsma_pairs, cw_l2, ddn, ...), or one
            from outside as a study's ``use`` names it: 'package.module:name'.
        epsilon: the radius, in (0, 1] for l-inf, or as '8/255'; None for attacks that look for the smallest
            change.
        seed: of the attack's random draws, from 0 to 2^63 - 1.
        ids: integers [N] that tell the images apart: an image's draws follow from seed and id, whatever its
            company. Positions unless given.
        batch_size: images in the network at once.
        protocol: what images are made to leave: their 'label', or the network's 'prediction', the paper's
            protocol and a study's default. By 'label' an attack may leave what is misclassified as it is.
        settings: the method's own, as in a study.

    Raises HarnessError for wrong settings, all mistakes at once; for images, labels or ids of another type,
    shape or range; for a network in training mode or one that returns no logits. RuntimeError for an attack
    that broke its word: images outside [0, 1] or its ball.
    """
    chosen = _settings(method, epsilon, settings)
    _check_run(network, seed, batch_size, protocol)
    clean = _clean(images, network)
    classes = _integers("labels", labels, clean)
    keys = torch.arange(len(clean), device=clean.device) if ids is None else _integers("ids", ids, clean)
    with _full_precision():
        predicted = _predicted(network, clean, keys, batch_size)
        asked = judged(network, clean)
        if asked is not network:
            predicted = _predicted(asked, clean, keys, batch_size)
        began = time.perf_counter()
        try:
            start = classes if protocol == "label" else predicted
            (adversarial,) = perturbed(asked, clean, start, keys, chosen, seed, batch_size)
        except ValueError as error:
            raise HarnessError(str(error)) from error
        seconds = time.perf_counter() - began
        afterwards = _predicted(asked, adversarial, keys, batch_size)
    sizes = norms(clean, adversarial)
    before, after = predicted.cpu().numpy(), afterwards.cpu().numpy()
    return Attacked(adversarial, before, after, **sizes, seconds=seconds, draws=draws_of(asked) or None)


def effectiveness(attacked: Attacked, bound: Bound, k: float = 2.0) -> float:
    """Per cent of the images that fool the network and stay within their own sigma (paper, III-B).

    As the column ``effective_own`` of the view ``effectiveness``: mean_l1 <= sigma(k). ``bound`` is of the
    very images that were attacked. Raises HarnessError where their numbers differ, and unless k is above 0.
    """
    if len(attacked.mean_l1) != len(bound.distance):
        counts = f"{len(attacked.mean_l1)} attacked images and the bound of {len(bound.distance)}"
        raise HarnessError(f"the bound must be of the images that were attacked, got {counts}")
    return 100 * float(np.mean((attacked.mean_l1 <= bound.sigma(k)) & attacked.fooled))


# --- settings ---------------------------------------------------------------------------------------


def _settings(method: str, epsilon: float | str | None, given: Mapping[str, Any]) -> Attack:
    """The attack's settings, validated as a study's; HarnessError with all mistakes."""
    plain = {name: _plain(value) for name, value in given.items()}
    radius = {} if epsilon is None else {"epsilon": [_plain(epsilon)]}
    is_foreign = ":" in method or "/" in method
    word = FOREIGN if is_foreign else method
    if word not in ATTACKS:
        raise HarnessError(f"unknown attack method '{method}'{did_you_mean(method, ATTACKS)}")
    values = {"use": method, "settings": {**radius, **plain}} if is_foreign else {**radius, **plain}
    try:
        settings = validated(ATTACKS[word], {"method": word, **values})
    except Mistakes as error:
        raise HarnessError(_explained(method, error)) from error
    except (TypeError, ValueError) as error:
        raise HarnessError(f"the settings of '{method}' must be plain values: {error}") from error
    assert isinstance(settings, Attack)
    if len(settings.epsilons) != 1:
        raise HarnessError(f"'{method}' is run at one epsilon at a time, got {list(settings.epsilons)}")
    return settings


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _explained(method: str, error: Mistakes) -> str:
    """All mistakes, a line each; of a list that is wrong for its entries' sake the entries' alone."""
    paths = [path for path, _ in error.below]
    lines = []
    for path, said in error.below:
        if not any(other.startswith(f"{path}.") for other in paths):
            # As they were given: by keyword, and one epsilon, which was handed on as a list.
            place = path.removeprefix("settings.").replace("epsilon.0", "epsilon")
            lines.append(f"  {place}: {said}")
    head = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return f"the attack '{method}' has {head}:\n" + "\n".join(lines)


# --- what came in -----------------------------------------------------------------------------------


def _check_run(network: nn.Module, seed: int, batch_size: int, protocol: str) -> None:
    """HarnessError for what the network must not be shown an image with."""
    if not isinstance(network, nn.Module):
        raise HarnessError(f"the network must be a torch.nn.Module, got {type(network).__name__}")
    if any(module.training for module in network.modules()):
        raise HarnessError(
            "the network must be in eval mode: dropout and batch statistics would tie images together "
            "(network.eval() sets it)"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise HarnessError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise HarnessError(f"batch_size must be a whole number from 1, got {batch_size!r}")
    if protocol not in get_args(Protocol):
        raise HarnessError(f"unknown protocol '{protocol}'{did_you_mean(protocol, get_args(Protocol))}")


def _clean(images: Any, network: nn.Module) -> Tensor:
    """float32 [N, C, H, W] without a gradient; HarnessError for another type or shape."""
    if not isinstance(images, Tensor):
        images = torch.from_numpy(as_array("images", images).copy()).to(_device_of(network))
    if images.dtype not in (torch.float32, torch.uint8) or images.ndim != 4 or not images.numel():
        came = f"{images.dtype} {tuple(images.shape)}"
        raise HarnessError(
            f"images must be float32 in [0, 1], or uint8, [N, C, H, W] and not empty, got {came}"
        )
    # Strides as of a new tensor, as in ``perturb``: kernels are chosen by them.
    return as_input(images.detach().flatten(1).view(images.shape))


def _device_of(network: nn.Module) -> torch.device:
    """Where the weights are; the CPU for a network without any."""
    weights = next(network.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device


def _integers(name: str, values: Any, images: Tensor) -> Tensor:
    """int64 [N] on the images' device; HarnessError for another type or another count."""
    array = as_array(name, values)
    if array.dtype.kind not in "iu" or array.shape != images.shape[:1]:
        came = f"{array.dtype} {array.shape}"
        raise HarnessError(f"{name} must be integers [{len(images)}], one an image, got {came}")
    return torch.from_numpy(array.astype(np.int64)).to(images.device)


def _predicted(network: nn.Module, images: Tensor, ids: Tensor, batch_size: int) -> Tensor:
    """The network's classes int64 [N]; HarnessError where it returns no logits."""
    with fresh(network, ids):
        answers = logits(network, images, batch_size)
    if answers.ndim != 2 or len(answers) != len(images):
        came = f"{tuple(answers.shape)} of {len(images)} images"
        raise HarnessError(f"the network must return logits [B, classes], got {came}")
    return answers.argmax(1)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 without TF32 meanwhile, as a study computes: see ``full_precision``. As it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    full_precision()
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
