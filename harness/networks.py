"""The networks: [0, 1] images in, logits out, normalisation inside, weights as safetensors.

To add one: a function (channels, size, classes, spec) -> body, an entry in ``BODIES``, its name in
``spec.NetworkSpec``.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.spec import NetworkSpec
from harness.vgg16 import IMAGENET_MEAN, IMAGENET_STD, Vgg16, load_pretrained, pretrained_file


class Classifier(nn.Module):
    """Normalises [0, 1] images [B, C, H, W] with fixed statistics and returns the body's logits [B, classes]."""

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


def _convnet(channels: int, size: tuple[int, int], classes: int, spec: NetworkSpec) -> nn.Module:
    """Four convolutions and two linear layers: trains on a CPU in seconds."""
    w = spec.width
    return nn.Sequential(
        nn.Conv2d(channels, w, 3, padding=1), nn.ReLU(True), nn.Conv2d(w, w, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(True), nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * w * (size[0] // 4) * (size[1] // 4), 4 * w), nn.ReLU(True), nn.Linear(4 * w, classes),
    )  # fmt: skip


def _vgg16(channels: int, size: tuple[int, int], classes: int, spec: NetworkSpec) -> nn.Module:
    return Vgg16(size, classes)


BODIES: dict[str, Callable[[int, tuple[int, int], int, NetworkSpec], nn.Module]] = {
    "convnet": _convnet,
    "vgg16": _vgg16,
}


def build(spec: NetworkSpec, pixels: np.ndarray, classes: int, seed: int, initial: bool = True) -> Classifier:
    """A freshly initialised network for images like ``pixels`` (uint8 [N, C, H, W], the training images).

    ``initial=False`` leaves pretrained weights out: stored ones follow, and only f1's first training needs the file.

    Raises HarnessError where pretrained weights are asked for and not found, or the images don't fit.
    """
    channels, size = pixels.shape[1], (pixels.shape[2], pixels.shape[3])
    if min(size) < 4 or channels not in (1, 3):
        raise HarnessError(
            f"networks take images of 1 or 3 channels and at least 4 x 4 pixels, got {channels} x {size[0]} x {size[1]}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = BODIES[spec.architecture](channels, size, classes, spec)
    if spec.pretrained:
        assert isinstance(body, Vgg16)
        if initial:
            load_pretrained(body, pretrained_file(spec))
        return Classifier(body, IMAGENET_MEAN, IMAGENET_STD)
    scale = (
        [pixels[:, c].astype(np.float32) / 255 for c in range(channels)]
        if len(pixels) <= 4096
        else _sampled(pixels)
    )
    return Classifier(
        body, tuple(float(x.mean()) for x in scale), tuple(max(float(x.std()), 1e-3) for x in scale)
    )


def _sampled(pixels: np.ndarray) -> list[np.ndarray]:
    """Channels of an even sample of the images: statistics to normalise with need no more, and no float copy of all."""
    some = pixels[:: len(pixels) // 4096]
    return [some[:, c].astype(np.float32) / 255 for c in range(some.shape[1])]


def device() -> torch.device:
    """The device of this process, with full float32 arithmetic on it.

    TF32 keeps 10 bits of mantissa: enough to flip the images that DeepFool leaves on the boundary.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers by name, for the store."""
    return {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}


def from_tensors(network: Classifier, tensors: dict[str, np.ndarray], to: torch.device) -> Classifier:
    """``network`` with the stored weights, on a device, in eval mode, its parameters frozen.

    Channels last, which is faster in forward and backward, and the same for all who test or attack a network: another
    layout sums in another order, and the last bits decide on which side DeepFool's images lie.
    """
    network.load_state_dict({name: to_tensor(value, to) for name, value in tensors.items()})
    return network.to(to).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def low_precision(network: Classifier) -> Classifier:
    """A copy that takes and returns float32 and computes in bfloat16, channels last; normalisation stays float32.

    For gradients: bfloat16 has float32's range, so none vanishes, and 8 bits of precision, so an argmax means nothing.
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
