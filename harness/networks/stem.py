"""What models made for ImageNet need for other images: a stem for small ones, three channels for grey ones.

Such a model halves its images once or twice before it looks at them. Of 32 pixels that leaves too few:
networks for CIFAR-10 begin with a 3 x 3 convolution of stride 1 and no pooling (He et al. 2016, 4.2).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeGuard

from pydantic import Field
from torch import Tensor, nn

from harness.errors import HarnessError

Stem = Annotated[
    Literal["auto", "small", "own"],
    Field(
        description="what the model begins with. small: a 3 x 3 convolution of stride 1, no pooling; "
        "auto: small for images of at most 64 pixels, where the kind of model is known"
    ),
]
Stems = Mapping[
    str, tuple[str, str | None]
]  # class of a model -> its first convolution and the pooling after

_SMALL = 64  # pixels of an image's shorter side


def three_channels(x: Tensor) -> Tensor:
    """Grey images [B, 1, H, W] repeated to [B, 3, H, W]; others as they are."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def known_model(name: str, library: str, known: Iterable[str]) -> str:
    """The name; ValueError with a suggestion where the library has no such model."""
    names = set(known)
    if name not in names:
        close = difflib.get_close_matches(name, sorted(names), n=1)
        suggestion = f"did you mean '{close[0]}'?" if close else f"none of its {len(names)} is called alike"
        raise ValueError(f"{library} has no model '{name}'; {suggestion}")
    return name


def set_stem(model: nn.Module, stem: Stem, size: tuple[int, int], known: Stems) -> str | None:
    """Give a model, in place, the stem asked for; the name of the convolution where it was drawn anew.

    Raises HarnessError where a small one is asked for and how is not known.
    """
    if stem == "own" or (stem == "auto" and min(size) > _SMALL):
        return None
    name, pooling = known.get(type(model).__name__, ("", None))
    convolution = model.get_submodule(name)
    if not _is_known(convolution) or (pooling and not isinstance(model.get_submodule(pooling), nn.MaxPool2d)):
        if stem == "auto":
            return None
        raise HarnessError(
            f"stem: this {type(model).__name__} has no small one that is known; plain models of "
            f"{', '.join(sorted(known))} do. Set stem: own"
        )
    if pooling is not None:
        model.set_submodule(pooling, nn.Identity())
    if convolution.kernel_size == (3, 3):
        convolution.stride = (1, 1)
        return None
    model.set_submodule(name, _convolution(convolution))
    return name


def _is_known(convolution: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a stride of 1 is all it takes, or another convolution of PyTorch's can stand in its place."""
    return isinstance(convolution, nn.Conv2d) and (
        convolution.kernel_size == (3, 3) or type(convolution) is nn.Conv2d
    )


def _convolution(like: nn.Conv2d) -> nn.Conv2d:
    """3 x 3 with stride 1, drawn as He et al. 2015 do."""
    drawn = nn.Conv2d(like.in_channels, like.out_channels, 3, padding=1, bias=like.bias is not None)
    nn.init.kaiming_normal_(drawn.weight, mode="fan_out", nonlinearity="relu")
    return drawn
