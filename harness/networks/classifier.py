"""Classifiers ([0, 1] images in, logits out, normalisation inside), and what a kind of them is."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.errors import Failed, HarnessError
from harness.networks import contract
from harness.networks import weights as files
from harness.networks.weights import Statistics
from harness.settings import Mistakes, Settings

_Mean = Annotated[float, Field(allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Architecture(Settings):
    """A kind of network and its settings: what ``build`` makes a ``Classifier`` of.

    One class a kind, listed in ``NETWORKS``; ``revision`` goes up when its code changes what it computes.

    Images are normalised with ``mean`` and ``std``; unless they are given with those of its ImageNet weights
    or stored with ``weights``, else with the training images' own.
    """

    title: ClassVar[str]  # for tables, e.g. 'VGG16'
    revision: ClassVar[int] = 0
    takes_any_size: ClassVar[bool] = False  # all of ``check_images``; the others are tried by ``check``
    stores_draws: ClassVar[bool] = False  # all that a body draws: as parameters and buffers, alone
    repeats_grey: ClassVar[bool] = False  # to three channels, for which statistics may be, too

    architecture: str  # narrowed to the Literal that a study names it by
    weights: str | None = Field(
        None,
        description="file of the weights that the network starts with: .safetensors, or a state dict (.pt)",
    )
    mean: Annotated[tuple[_Mean, ...], Field(min_length=1)] | None = Field(
        None, description="of each channel, in [0, 1] units: images are normalised with it"
    )
    std: Annotated[tuple[_Deviation, ...], Field(min_length=1)] | None = Field(
        None, description="standard deviation of each channel, beside 'mean'"
    )

    @model_validator(mode="after")
    def _statistics_are_of_the_same_channels(self) -> Self:
        if (self.mean is None) != (self.std is None):
            given, lacking = ("mean", "std") if self.std is None else ("std", "mean")
            raise Mistakes([(lacking, f"required where '{given}' is given")])
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise Mistakes(
                [("std", f"should have a value for each of 'mean', {len(self.mean)}, got {len(self.std)}")]
            )
        return self

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
        # Where none are given they follow from the images, whose fingerprint is in the key, too.
        absent = () if self.mean else ("mean", "std")
        return self.model_dump(mode="json", exclude={"weights", *absent})

    @abstractmethod
    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """Drawn from torch's generator: normalised images [B, channels, *size] to logits [B, classes]."""

    def check(self, channels: int, size: tuple[int, int], classes: int, workers: int = 1) -> None:
        """Raise HarnessError for what can't work, before any work; ``workers`` train it at once.

        Weights that do not fit, statistics of other channels, and, but for kinds that take all images, a
        network that can't be made for such images or is no classifier of them (``contract.check_body``). For
        those kinds without weights it costs nothing.
        """
        contract.check_images(channels, size)
        tensors = self.read_initial()
        if statistics := self.normalised_with(tensors):
            contract.check_statistics(statistics, channels, self.repeats_grey)
        if self.takes_any_size and tensors is None:
            return
        try:
            self._try(channels, size, classes, tensors or {}, workers)
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:  # others' code raises anything
            shape, reason = f"{channels} x {size[0]} x {size[1]}", Failed.of(error).reason
            raise HarnessError(f"{self.title} does not take images of {shape}: {reason}") from error

    def _try(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        tensors: Mapping[str, Tensor],
        workers: int,
    ) -> None:
        # Names and shapes are enough for kinds that take all images: the meta device has no values.
        place = torch.device("meta" if self.takes_any_size else "cpu")
        with torch.random.fork_rng(devices=[]), place:
            torch.manual_seed(0)
            body = self.body(channels, size, classes).eval()
        fitted = self._fitted(body, tensors) if tensors else {}
        if not self.takes_any_size:
            body.load_state_dict(fitted, strict=False)
            contract.check_body(body, channels, size, classes)
            contract.check_workers(body, workers)

    def initial_file(self) -> Path | None:
        """The file that a first training starts from; None where weights are drawn.

        Raises HarnessError where the file is not there and can't be had.
        """
        return None if self.weights is None else files.found(self.weights)

    def initial_weights(self) -> str | None:
        """sha256 of the file that a first training starts from; None where weights are drawn.

        Raises HarnessError where the file is not there and can't be had.
        """
        path = self.initial_file()
        return None if path is None else files.digest(path)

    def read_initial(self) -> dict[str, Tensor] | None:
        """The tensors of that file by name, on the CPU; None where there is none.

        Raises HarnessError where the file is not there, is damaged or holds something else.
        """
        path = self.initial_file()
        return None if path is None else files.read(path)

    def load(self, body: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Fill a body with what ``read_initial`` returned. Raises HarnessError where it does not fit."""
        body.load_state_dict(self._fitted(body, tensors), strict=False)

    def _fitted(self, body: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        source = "those of ImageNet" if self.weights is None else f"'{self.weights}'"
        return files.fitted(tensors, body.state_dict(), self.drawn(body), f"{source} in {self.title}")

    def drawn(self, body: nn.Module) -> tuple[str, ...]:
        """How the names of a body's tensors begin that are not taken from the file."""
        return ()

    def statistics(self) -> Statistics | None:
        """What images are normalised with; None: the training images' own, unless the file has some."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def normalised_with(self, tensors: Mapping[str, Tensor] | None) -> Statistics | None:
        """``statistics``, else those stored with the initial weights; None: the training images' own."""
        return self.statistics() or (None if tensors is None else files.statistics(tensors))


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
    stored = {name: to_tensor(value, to) for name, value in tensors.items()}
    # Their number is the stored network's: one that repeats grey images may have three.
    network.mean, network.std = stored["mean"].clone(), stored["std"].clone()
    network.load_state_dict(stored)
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
