"""Attacks of other libraries, by the name of a class and its arguments: what all adapters have in common.

An adapter is a ``Library``: where its classes are, which of them no study can use, and how one makes images.
What a study says of a class is checked when the study is read, by the class's signature and by making one
of it, so a library is imported where a study names it, and not before.
"""

import logging
import math
import warnings
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import AfterValidator, ConfigDict, Field, JsonValue, model_validator
from torch import Tensor, nn

from harness import seeds
from harness.attacks.adapters.arguments import filled, mistakes, typed, unobtainable
from harness.attacks.adapters.arguments import finite as without_infinity
from harness.attacks.attack import Attack, Norm
from harness.attacks.batch import class_count
from harness.attacks.guard import in_batches, seeded
from harness.errors import HarnessError, did_you_mean
from harness.settings import Mistakes, Radius, distinct

_ITERATIONS = ("steps", "max_iter", "max_iterations", "nb_iter", "num_iter_set", "n_queries")
_REPEATS = ("binary_search_steps", "n_restarts", "nb_restarts", "restarts", "nb_random_init", "eot_iter")
_UNKNOWN_COST, _LARGEST_COST = 100, 10_000  # gradients an image and radius
_ROUNDING = 1e-6
_TRIED_SHAPE, _TRIED_CLASSES = (3, 8, 8), 10  # of the network on which arguments are tried


@dataclass(frozen=True)
class Case:
    """What an attack is made for: a batch's network, and what the study and its seed say.

    ``shape`` is [C, H, W]; ``epsilon`` the radius in ``norm``, None where the class takes none; ``seed`` of
    this batch.
    """

    network: nn.Module
    shape: tuple[int, ...]
    classes: int
    device: torch.device
    norm: Norm
    epsilon: float | None
    seed: int


# Images float32 [B, C, H, W] in [0, 1] and the classes int64 [B] that they are to leave -> images like them.
Made = Callable[[Tensor, Tensor], Tensor]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Library:
    """A library of attacks.

    ``package`` is imported, ``install`` says how to get it. ``classes`` imports it and gives its attacks by
    name; ``refusal`` says why one cannot be used, or nothing. ``ours`` are the arguments that a study cannot
    give, each with the reason. ``radius`` names the argument, or what stands for it, that takes the radius;
    None for a class that takes none. ``norm`` is what can be told of a class and its arguments. ``make``
    makes the attack.
    """

    package: str
    install: str
    ours: Mapping[str, str]
    classes: Callable[[], dict[str, type]]
    refusal: Callable[[type], str | None]
    radius: Callable[[type], str | None]
    norm: Callable[[type, Arguments], Norm | None]
    make: Callable[[type, Arguments, Case], Made]

    def missing(self) -> str | None:
        """That the library is not installed, and how to get it; nothing where it is."""
        return None if find_spec(self.package) else f"needs {self.package}, not installed: {self.install}"

    def refused(self, cls: type) -> str | None:
        """Why no study can use a class; None where one can."""
        if reason := self.refusal(cls):
            return reason
        argument = unobtainable(cls, self.ours)
        return f"needs '{argument}', which no value of a study can be" if argument else None


class Adapter(Attack, ABC):
    """An attack of a library: its class's name as ``attack``, its ``arguments``, and its radii."""

    model_config = ConfigDict(serialize_by_alias=True)

    is_limited: ClassVar[bool] = True
    library: ClassVar[Library]

    attack: str = Field(description="the class's name in its library")
    arguments: Annotated[dict[str, JsonValue], AfterValidator(without_infinity)] = Field(
        {}, description="arguments of the class, by name"
    )
    epsilon: Annotated[tuple[Radius, ...], Field(min_length=1), AfterValidator(distinct)] | None = Field(
        None, description="radii in [0, 1] units, for a class that takes one"
    )
    # ``norm`` is what comes of it: a name of its own here, but not in a study.
    told_norm: Norm | None = Field(
        None, alias="norm", description="needed where the class does not tell the norm"
    )
    gradients_per_image: Annotated[float, Field(gt=0)] | None = Field(
        None, description="for the plan's prices; guessed from the arguments unless given"
    )

    @property
    def algorithm(self) -> str:
        """'foolbox.LinfPGD': the library's package and the class."""
        return f"{self.library.package}.{self.attack}"

    @property
    def norm(self) -> Norm:
        """See ``Attack``: the class's own, or what the study says."""
        norm = self.told_norm or self.library.norm(self.attack_class(), self.arguments)
        assert norm is not None  # the study was checked
        return norm

    @property
    def epsilons(self) -> tuple[float | None, ...]:
        """See ``Attack``."""
        return self.epsilon or (None,)

    def attack_class(self) -> type:
        """The library's class; raises HarnessError where the library is not installed."""
        if lacking := self.library.missing():
            raise HarnessError(f"{self.algorithm} {lacking}")
        return self.library.classes()[self.attack]

    def identity(self) -> dict[str, Any]:
        """The class, its norm, and all its arguments that are plain values, with the library's defaults."""
        arguments = filled(self.attack_class(), self.arguments, self.library.ours)
        return {"method": self.method, "attack": self.attack, "arguments": arguments, "norm": self.norm}

    def cost(self, classes: int, values: int) -> float:
        """What the study says, or a guess: iterations times restarts, 100 where nothing tells of them."""
        each = self.gradients_per_image
        if each is None:
            arguments = filled(self.attack_class(), self.arguments, self.library.ours)
            numbers = {name: value for name, value in arguments.items() if isinstance(value, int | float)}
            each = next((numbers[name] for name in _ITERATIONS if name in numbers), _UNKNOWN_COST)
            for name in _REPEATS:
                each *= max(numbers.get(name, 1), 1)
            each = min(max(each, 1), _LARGEST_COST)
        return each * len(self.epsilons)

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """The library's class, made anew for each batch of images in their order, and each radius.

        What it draws from global generators follows from the seed, the batch's first id and the radius.
        """
        cls, norm, classes = self.attack_class(), self.norm, class_count(network, images)
        shape = tuple(images.shape[1:])
        results = []
        for epsilon in self.epsilons:

            def make(x: Tensor, label: Tensor, id: Tensor, epsilon: float | None = epsilon) -> Tensor:
                drawn = seeds.derive(seed, self.algorithm, int(id[0]), epsilon)
                case = Case(network, shape, classes, x.device, norm, epsilon, drawn)
                with _quiet(self.library.package):
                    made = self._make(cls, case)(x, label)
                return _rounded(made.detach().to(x.device, torch.float32))

            results.append(in_batches(make, images, labels, ids, batch_size, seed, epsilon))
        return results

    def _make(self, cls: type, case: Case) -> Made:
        return self.library.make(cls, typed(cls, self.arguments), case)

    # --- what a study says of a class -------------------------------------------------------------------

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        found = list(self._mistakes())
        if not found:
            found = list(self._what_it_says())
        if found:
            raise Mistakes(found)
        return self

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the settings, as far as the class's signature tells."""
        library = self.library
        if lacking := library.missing():
            yield "attack", f"{self.algorithm} {lacking}"
            return
        classes = library.classes()
        cls = classes.get(self.attack)
        if cls is None:
            usable = [name for name, one in classes.items() if not library.refused(one)]
            yield (
                "attack",
                f"{library.package} has no attack '{self.attack}'{did_you_mean(self.attack, usable)}",
            )
            return
        if reason := library.refused(cls):
            yield "attack", f"{self.algorithm} cannot be used: it {reason}"
            return
        for name, sentence in mistakes(cls, self.arguments, library.ours):
            yield f"arguments.{name}", sentence
        yield from self._radius_mistakes(cls)

    def _radius_mistakes(self, cls: type) -> Iterator[tuple[str, str]]:
        """What is wrong with ``norm`` and ``epsilon``."""
        norm, takes_radius = self.library.norm(cls, self.arguments), self.library.radius(cls)
        if norm is None and self.told_norm is None:
            yield "norm", f"required: {self.algorithm} does not tell whether it is linf, l2, l1 or l0"
        if norm is not None and self.told_norm not in (None, norm):
            yield "norm", f"{self.algorithm} with these arguments is of {norm}, got {self.told_norm}"
        if takes_radius and self.epsilon is None:
            yield "epsilon", f"required, but not given: {self.algorithm} takes a radius"
        if not takes_radius and self.epsilon is not None:
            yield "epsilon", f"{self.algorithm} takes no radius, got {list(self.epsilon)}"
        if (self.told_norm or norm) == "linf" and max(self.epsilon or (0,)) > 1:
            yield "epsilon", f"of linf should be at most 1, got {max(self.epsilon or (0,))}"

    def _what_it_says(self) -> Iterator[tuple[str, str]]:
        """The library's own word, once for each radius: the attack is made for a network of no meaning."""
        cls, norm, ids = self.attack_class(), self.norm, torch.zeros(1, dtype=torch.int64)
        for epsilon in self.epsilons:
            try:
                with seeded(0, ids, epsilon), _quiet(self.library.package):
                    network = nn.Sequential(
                        nn.Flatten(), nn.Linear(math.prod(_TRIED_SHAPE), _TRIED_CLASSES)
                    ).eval()
                    case = Case(network, _TRIED_SHAPE, _TRIED_CLASSES, ids.device, norm, epsilon, 0)
                    self._make(cls, case)
            except Exception as error:
                at = "" if epsilon is None else f" at epsilon {epsilon:g}"
                yield "arguments", f"{self.library.package} says{at}: {error}"
                return


def _rounded(images: Tensor) -> Tensor:
    """Within [0, 1] where rounding alone has left it; else as they are, for ``perturb`` to refuse."""
    inside = images.clamp(0, 1)
    return inside if (images - inside).abs().max() <= _ROUNDING else images


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """No warnings meanwhile, nor what the package logs."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
