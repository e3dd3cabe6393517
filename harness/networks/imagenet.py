"""VGG16's ImageNet weights: torchvision's file, or another in safetensors."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import HarnessError

# torchvision's VGG16_Weights.IMAGENET1K_V1: the file's name carries the first digits of its sha256.
_FILE, _SHA256 = "vgg16-397923af.pth", "397923af"
_LAST_LAYER = ("classifier.6.weight", "classifier.6.bias")  # ImageNet's classes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pretrained_file(weights: str | None) -> Path:
    """The file with VGG16's ImageNet weights: the one given, else torchvision's in torch's cache.

    Raises HarnessError, which names the option to train from scratch, where there is none and no network.
    """
    if weights is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / _FILE
        if not path.is_file():
            _download(path)
        return path
    path = Path(weights)
    if not path.is_file():
        raise HarnessError(
            f"network.weights: no file '{path}'. "
            "Give VGG16's ImageNet weights, or set network.pretrained=false"
        )
    return path


def _download(path: Path) -> None:
    from torchvision.models import VGG16_Weights

    url = VGG16_Weights.IMAGENET1K_V1.url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        raise HarnessError(
            f"VGG16's ImageNet weights are not in torch's cache ('{path}') "
            f"and cannot be downloaded ({error}). "
            "Put the file there, name one with --set network.weights=FILE, "
            "or train from scratch with --set network.pretrained=false"
        ) from error


def pretrained_digest(weights: str | None) -> str:
    """sha256 of the file that ``pretrained_file`` finds."""
    with pretrained_file(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_pretrained(vgg: nn.Module, path: Path) -> None:
    """Fill all layers of torchvision's VGG16 but the last, whose classes differ.

    Raises HarnessError where the file is damaged, not torchvision's, or of another network.
    """
    state = _safetensors(path) if path.suffix == ".safetensors" else _torchvisions(path)
    state = {name: value for name, value in state.items() if name not in _LAST_LAYER}
    stored = {name: value.shape for name, value in state.items()}
    expected = {name: value.shape for name, value in vgg.state_dict().items() if name not in _LAST_LAYER}
    if expected != stored:
        names = expected.keys() | stored.keys()
        wrong = sorted(name for name in names if expected.get(name) != stored.get(name))
        raise HarnessError(
            f"'{path}' does not hold torchvision's VGG16: "
            f"{len(wrong)} tensors differ, the first is '{wrong[0]}'"
        )
    vgg.load_state_dict(state, strict=False)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise HarnessError(f"'{path}' is not a safetensors file: {error}") from error
    return state


def _torchvisions(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(_SHA256):
        raise HarnessError(
            f"'{path}' is not torchvision's {_FILE} (its sha256 differs); other weights come as .safetensors"
        )
    # The one file not in safetensors, known by its digest; weights_only reads tensors and runs no code.
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
