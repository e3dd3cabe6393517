"""The mark that a function from outside carries: what it is, and what tables and planner need to know of it.

A mark says nothing that is believed of results: predictions, range and norms are measured on what came back.
It is checked where the function is named by a study, not where it is defined.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, overload

from harness.settings import Norm

Kind = Literal["network", "attack", "defense"]
# A number, or a function of the settings by name, each a single value.
Stated = float | Callable[[Mapping[str, Any]], float]
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

_ATTRIBUTE = "harness_mark"
BATCH_SIZE = "batch_size"  # the parameter of an attack that makes its own batches


@dataclass(frozen=True)
class NetworkMark:
    """Of ``f(channels, size, classes, *, ...) -> nn.Module``: normalised images to logits.

    It makes a new network at every call; ``size`` is (height, width).
    """

    kind: ClassVar[Kind] = "network"
    parameters: ClassVar[tuple[str, ...]] = ("channels", "size", "classes")
    optional: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()

    title: str | None = None


@dataclass(frozen=True)
class AttackMark:
    """Of ``f(network, images, labels, ids, seed, *, ...) -> Tensor``: see the decorator ``attack``."""

    kind: ClassVar[Kind] = "attack"
    parameters: ClassVar[tuple[str, ...]] = ("network", "images", "labels", "ids", "seed")
    optional: ClassVar[tuple[str, ...]] = (BATCH_SIZE,)
    numbers: ClassVar[tuple[str, ...]] = ("cost",)

    norm: Norm
    cost: Stated
    title: str | None = None


@dataclass(frozen=True)
class DefenseMark:
    """Of ``f(inputs, seed, *, ...) -> Objective``: see the decorator ``defense``."""

    kind: ClassVar[Kind] = "defense"
    parameters: ClassVar[tuple[str, ...]] = ("inputs", "seed")
    optional: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ("samples_per_image", "gradients_per_sample")

    bound: bool = False
    base_outputs: bool = False
    other_bases: bool = False
    samples_per_image: Stated = 1
    gradients_per_sample: Stated = 0
    title: str | None = None


Mark = NetworkMark | AttackMark | DefenseMark


@overload
def network(function: AnyFunction, /) -> AnyFunction: ...
@overload
def network(*, title: str | None = None) -> Callable[[AnyFunction], AnyFunction]: ...
def network(function: Any = None, /, *, title: str | None = None) -> Any:
    """Mark a factory ``f(channels, size, classes, *, ...) -> nn.Module`` of networks.

    They take normalised images float32 [B, channels, *size] and return logits [B, classes]. ``title``, here
    as below, is what tables call it; the function's name unless given.
    """
    mark = _marked(NetworkMark(title))
    return mark if function is None else mark(function)


def attack(*, norm: Norm, cost: Stated, title: str | None = None) -> Callable[[AnyFunction], AnyFunction]:
    """Mark an attack ``f(network, images, labels, ids, seed, *, ...) -> Tensor``.

    It gets float32 images [B, C, H, W] in [0, 1], the classes int64 [B] that they are to leave, and their ids
    int64 [B]; the images it returns are like those it got. One with a setting ``epsilon: float`` keeps within
    that radius in ``norm``; one without makes ``norm`` small. It is called for a batch at a time, or, where
    it has a sixth parameter ``batch_size``, for several at once, of which it shows the network so many at a
    time: one that lets images that are done make room for others needs fewer passes. ``cost`` is how many
    gradients to the image, each with its forward pass, one image takes at one epsilon.
    """
    return _marked(AttackMark(norm, cost, title))


@overload
def defense(function: AnyFunction, /) -> AnyFunction: ...
@overload
def defense(
    *,
    bound: bool = False,
    base_outputs: bool = False,
    other_bases: bool = False,
    samples_per_image: Stated = 1,
    gradients_per_sample: Stated = 0,
    title: str | None = None,
) -> Callable[[AnyFunction], AnyFunction]: ...
def defense(
    function: Any = None,
    /,
    *,
    bound: bool = False,
    base_outputs: bool = False,
    other_bases: bool = False,
    samples_per_image: Stated = 1,
    gradients_per_sample: Stated = 0,
    title: str | None = None,
) -> Any:
    """Mark a defense ``f(inputs, seed, *, ...) -> Objective``: what a training minimises.

    ``bound``, ``base_outputs`` and ``other_bases`` say which of ``Inputs`` it is made from beside clean
    images and labels; ``samples_per_image`` how many images the network takes in training steps for each
    training image, ``gradients_per_sample`` how many gradients to the image an inner attack takes for each of
    those.
    """
    mark = _marked(
        DefenseMark(bound, base_outputs, other_bases, samples_per_image, gradients_per_sample, title)
    )
    return mark if function is None else mark(function)


def mark_of(function: Any) -> Mark | None:
    """The mark of a function; None for one without, and for all that is no function."""
    mark = getattr(function, "__dict__", {}).get(_ATTRIBUTE)
    return mark if isinstance(mark, Mark) else None


def mistakes(mark: Mark) -> Iterator[str]:
    """What is wrong with what a mark states, a sentence each."""
    if isinstance(mark, AttackMark) and mark.norm not in get_args(Norm):
        yield f"norm should be one of {', '.join(get_args(Norm))}, got {mark.norm!r}"
    if isinstance(mark, DefenseMark):
        for name in ("bound", "base_outputs", "other_bases"):
            if not isinstance(getattr(mark, name), bool):
                yield f"{name} should be True or False, got {getattr(mark, name)!r}"
    for name in mark.numbers:
        stated = getattr(mark, name)
        if not callable(stated) and not is_count(stated):
            yield f"{name} should be a number of at least 0, or a function of the settings, got {stated!r}"
    if mark.title is not None and not (isinstance(mark.title, str) and mark.title.strip()):
        yield f"title should be text, got {mark.title!r}"


def is_count(value: Any) -> bool:
    """Whether it is a finite number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _marked(mark: Mark) -> Callable[[AnyFunction], AnyFunction]:
    def decorator(function: AnyFunction) -> AnyFunction:
        setattr(function, _ATTRIBUTE, mark)
        return function

    return decorator
