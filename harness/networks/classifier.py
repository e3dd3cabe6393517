"""Classifiers ([0, 1] images in, logits out, normalisation inside), and what a kind of them is."""

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from harness.settings import Settings

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel


class Architecture(Settings):
    """A kind of network and its settings: what ``build`` makes a ``Classifier`` of.

    One class a kind, listed in ``NETWORKS``; ``revision`` goes up when its code changes what it computes.
    """

    title: ClassVar[str]  # for tables, e.g. 'VGG16'
    revision: ClassVar[int] = 0

    architecture: str  # narrowed to the Literal that a study names it by
    weights: str | None = None

    @property
    def algorithm(self) -> str:
        """What the tables call the kind; one from outside has the name of where it is from."""
        return self.architecture

    @property
    def package(self) -> str | None:
        """The top-level package from outside whose code makes the network; None for the harness's own."""
        return None

    def identity(self) -> dict[str, Any]:
        """The settings that determine the network; of the file with its weights the digest does."""
        return self.model_dump(mode="json", exclude={"weights"})

    @abstractmethod
    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """Drawn from torch's generator: normalised images [B, channels, *size] to logits [B, classes]."""

    def initial_weights(self) -> str | None:
        """sha256 of the file that a first training starts from; None where weights are drawn.

        Raises HarnessError where the file is not there and can't be had.
        """
        return None

    def load_initial(self, body: nn.Module) -> None:
        """Fill a body with the weights of that file, if there is one.

        Raises HarnessError where the file is not there or does not fit.
        """

    def statistics(self) -> Statistics | None:
        """What images are normalised with; None: the training images' own."""
        return None


class Classifier(nn.Module):
    """[0, 1] images [B, C, H, W], normalised with fixed statistics, to the body's logits [B, classes]."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits


def to_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers by name, for the store."""
    return {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}


def from_tensors(network: Classifier, tensors: dict[str, np.ndarray], to: torch.device) -> Classifier:
    """``network`` with the stored weights, on a device, in eval mode, its parameters frozen.

    Channels last, which is faster in forward and backward, and the same for all who test or attack a network:
    another layout sums in another order, and the last bits decide on which side DeepFool's images lie.
    """
    network.load_state_dict({name: to_tensor(value, to) for name, value in tensors.items()})
    return network.to(to).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def low_precision(network: Classifier) -> Classifier:
    """A copy that takes and returns float32 and computes in bfloat16, channels last.

    Normalisation stays float32. For gradients: bfloat16 has float32's range, so none vanishes, and 8 bits of
    precision, so an argmax means nothing.
    """
    copy = Classifier(
        _LowPrecision(network.body),
        tuple(network.mean.flatten().tolist()),
        tuple(network.std.flatten().tolist()),
    )
    return copy.to(network.mean.device).eval().requires_grad_(False)


class _LowPrecision(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = deepcopy(body).to(torch.bfloat16).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x.to(dtype=torch.bfloat16, memory_format=torch.channels_last))
        return logits.float()


def logits(network: nn.Module, images: np.ndarray, batch_size: int, on: torch.device) -> Iterator[Tensor]:
    """Logits on the CPU, a block of ``batch_size`` images at a time.

    Images are uint8 (0..255) or float32 in [0, 1], [N, C, H, W].
    """
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            yield network(as_input(to_tensor(images[start : start + batch_size], on))).cpu()


def predict(network: nn.Module, images: np.ndarray, batch_size: int, on: torch.device) -> np.ndarray:
    """Predicted classes int64 [N]."""
    return np.concatenate([block.argmax(1).numpy() for block in logits(network, images, batch_size, on)])


def to_tensor(array: np.ndarray, on: torch.device) -> Tensor:
    """A copy on the device: arrays mapped from a store are read-only, which torch does not know."""
    return torch.from_numpy(np.array(array)).to(on)


def as_input(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [0, 1]; float32 is passed on."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
