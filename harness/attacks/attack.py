"""What an attack is: settings that know how to perturb images; and the door that checks what goes in and out.

Every image's path is its own: its own stopping, constants and draws (keyed on seed and image id), so how
images are grouped changes nothing but the order of summation inside the network's kernels. Images that are
done leave the batch and others take their place (see ``batch.compacted``).

What an attack says of its own success is not used: predictions and ``norms`` are measured afterwards.
"""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from harness.attacks.batch import frozen
from harness.networks.contract import is_probabilities
from harness.seeds import derive
from harness.settings import Norm, Settings, largest_within

# The classes that an attack makes images leave: those that the network predicts, or the true ones.
Protocol = Literal["prediction", "label"]
Gradients = Annotated[
    Literal["float32", "bfloat16"],
    Field(description="arithmetic of gradients; what enters a result is decided in float32 either way"),
]


class Attack(Settings):
    """An attack: its settings as fields, and what it does with them.

    ``title`` is its name in tables. ``revision`` is raised when its code makes other images of the same
    settings: results of the old code are then made anew.
    """

    title: ClassVar[str]
    revision: ClassVar[int] = 0
    is_limited: ClassVar[bool] = False  # stopped at a block that takes too long: code that may not end

    method: str

    @property
    def algorithm(self) -> str:
        """What the tables call the method; one from outside has the name of where it is from."""
        return self.method

    @property
    def package(self) -> str | None:
        """The top-level package from outside whose code makes the images; None for the harness's own."""
        return None

    @property
    def norm(self) -> Norm:
        """The norm whose ball ``epsilon`` is the radius of; without epsilon, the one that is made small."""
        return "linf"

    @property
    def epsilons(self) -> tuple[float | None, ...]:
        """The radii that it is made for, its setting ``epsilon``, in ``norm`` (l1 and l2 of all values).

        (None,) for an attack that looks for the smallest perturbation.
        """
        radii: tuple[float | None, ...] = getattr(self, "epsilon", (None,))
        return radii

    def with_epsilons(self, epsilons: tuple[float | None, ...]) -> Self:
        """The same for these of its radii; itself where it has none."""
        return self if self.epsilons == (None,) else self.model_copy(update={"epsilon": epsilons})

    def identity(self) -> dict[str, Any]:
        """The settings that determine an image, but for epsilon."""
        return self.model_dump(mode="json", exclude={"epsilon"})

    def members(self) -> tuple[tuple[str, "Attack"], ...]:
        """The attacks that this one is the worst case of, by name, in order; none for any other.

        Each is made for the same radii, on the images that none before it fooled: see ``member_seed``.
        """
        return ()

    @abstractmethod
    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """All images for each of ``epsilons``, in order. Called through the function ``perturb``, which see.

        Gradients are enabled, those of the network's weights are not, and all arguments have been checked.
        """

    @abstractmethod
    def cost(self, classes: int, values: int) -> float:
        """Gradients to the image, each with its forward pass, that one image takes over all epsilons.

        Of a problem of so many classes, with so many values (C x H x W) an image. For attacks that end by
        themselves what small networks on MNIST and CIFAR-10 typically take; a factor of two is usual.
        """


def perturb(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    settings: Attack,
    seed: int,
    batch_size: int = 128,
) -> list[Tensor]:
    """The adversarial images of one attack: float32 [B, C, H, W] in [0, 1] on the images' device.

    ``images`` float32 [B, C, H, W] in [0, 1]; ``labels`` int64 [B], the classes to leave (true labels
    or the network's predictions); ``ids`` int64 [B], which key the draws; ``batch_size`` of them are in the
    network at once. All images for each epsilon of the settings, in order; once for attacks that look for
    the smallest perturbation. The network is in eval mode, returns logits, and is left as it was found.

    Raises ValueError for inputs that cannot be attacked, RuntimeError for an attack that broke its word.
    """
    if not isinstance(settings, Attack):
        raise ValueError(f"expected the settings of an attack, got {type(settings).__name__}")
    _check_inputs(network, images, labels, ids)
    # Strides as of a new tensor: kernels are chosen by them.
    images = images.detach().flatten(1).view(images.shape)
    with torch.enable_grad(), frozen(network):
        made = settings.perturb(network, images, labels, ids, seed, batch_size)
    made = [batch.detach() for batch in made]
    for batch, epsilon in zip(made, settings.epsilons, strict=True):
        _check_result(settings, images, batch, epsilon)
    return made


def member_seed(seed: int, member: str) -> int:
    """What a member of a worst case draws by, whose own seed is ``seed``."""
    return derive(seed, member)


def norms(images: Tensor, adversarial: Tensor) -> dict[str, np.ndarray]:
    """Sizes of the perturbations, each [B], computed in float64 on the CPU.

    ``l0`` int32, values changed; ``mean_l1`` mean absolute change of a value; ``l1`` sum of the absolute
    changes; ``l2`` Euclidean, summed over the values; ``linf`` largest absolute change. Raises
    ValueError where the shapes differ.
    """
    if images.shape != adversarial.shape:
        shapes = f"{tuple(images.shape)} and {tuple(adversarial.shape)}"
        raise ValueError(f"images and adversarial images differ in shape: {shapes}")
    difference = adversarial.detach().cpu().double() - images.detach().cpu().double()
    change = difference.abs().flatten(1).numpy()
    return {
        "l0": np.count_nonzero(change, axis=1).astype(np.int32),
        "mean_l1": change.mean(axis=1),
        "l1": change.sum(axis=1),
        "l2": np.sqrt(np.square(change).sum(axis=1)),
        "linf": change.max(axis=1),
    }


def _check_inputs(network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor) -> None:
    """ValueError for anything that would make an attack mean something else than it says."""
    if images.dtype != torch.float32 or images.ndim != 4 or not images.numel():
        came = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be float32 [B, C, H, W] and not empty, got {came}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min().item()} to {images.max().item()}")
    for name, value in (("labels", labels), ("ids", ids)):
        if value.dtype != torch.int64 or value.shape != images.shape[:1] or value.device != images.device:
            came = f"{value.dtype} {tuple(value.shape)} on {value.device}"
            raise ValueError(f"{name} must be int64 [{len(images)}] on {images.device}, got {came}")
    if any(module.training for module in network.modules()):
        raise ValueError(
            "the network must be in eval mode: dropout and batch statistics would tie images together"
        )
    with torch.no_grad():
        logits = network(images[:1])
    _check_logits(logits)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        came = f"{labels.min().item()} to {labels.max().item()}"
        raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, got {came}")


def _check_logits(logits: Tensor) -> None:
    """ValueError for what the network returns of one image, where it is no logits [1, classes]."""
    if logits.ndim != 2 or not logits.isfinite().all():
        came = f"{tuple(logits.shape)}: {logits.flatten()[:4].tolist()}"
        raise ValueError(f"the network must return finite logits [B, classes], got {came}")
    if is_probabilities(logits):
        raise ValueError("the network must return logits, and these look like probabilities")


def _check_result(settings: Attack, images: Tensor, made: Tensor, epsilon: float | None) -> None:
    """RuntimeError for images that no attack may return."""
    name, norm = settings.algorithm, settings.norm
    if made.shape != images.shape or made.dtype != torch.float32 or made.device != images.device:
        came = f"{made.dtype} {tuple(made.shape)} on {made.device}"
        raise RuntimeError(f"{name} returned {came}, unlike the images it was given")
    if not (made.min() >= 0 and made.max() <= 1):
        raise RuntimeError(f"{name} returned values that are not finite or not in [0, 1]")
    if epsilon is None:
        return
    largest = _size((made - images).flatten(1), norm).max().item()
    if largest > largest_within(norm, epsilon):
        raise RuntimeError(f"{name} left the {norm} ball of radius {epsilon}: {largest}")


def _size(change: Tensor, norm: Norm) -> Tensor:
    """The norm [B] of changes [B, values]."""
    if norm == "linf":
        return change.abs().amax(1)
    if norm == "l0":
        return change.count_nonzero(1)
    return change.norm(p=1 if norm == "l1" else 2, dim=1)
