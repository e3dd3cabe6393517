"""ImageNet's weights of torchvision's models: the file that torchvision names, through torch's cache."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.networks.weights import Statistics, digest, found


def pretrained_file(model: str, weights: str | None) -> Path:
    """The file with ImageNet's weights of a model: the one given, else torchvision's in torch's cache.

    Raises HarnessError, which names the option to train from scratch, where there is none and no network,
    and where the one in the cache is damaged.
    """
    if weights is not None:
        return found(weights, f". Give {model}'s ImageNet weights, or set network.pretrained=false")
    url = str(_default(model).url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    # The file's name carries the first digits of its sha256.
    digits = re.findall(r"-([0-9a-f]+)\.", path.name)[-1]
    if not path.is_file():
        _download(model, url, path, digits)
    elif not digest(path).startswith(digits):
        raise HarnessError(
            f"weights: '{path}' is not torchvision's {path.name}: its sha256 differs. Remove it"
        )
    return path


def _default(model: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(model).DEFAULT


def _download(model: str, url: str, path: Path, digits: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise HarnessError(
            f"{model}'s ImageNet weights are not in torch's cache ('{path}') "
            f"and cannot be downloaded ({error}). "
            "Put the file there, name one with --set network.weights=FILE, "
            "or train from scratch with --set network.pretrained=false"
        ) from error


def pretrained_statistics(model: str) -> Statistics:
    """What images were normalised with in that training: of most models, ImageNet's mean and deviation."""
    transforms = _default(model).transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def last_layer(model: nn.Module) -> str:
    """The name of the layer that makes logits, in a file those of ImageNet's classes: of all torchvision's
    models the last one that multiplies.
    """
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-1]
