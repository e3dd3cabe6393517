"""Square: random squares, kept where they lower the margin. Needs no gradients, only the network's answers."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from torch import Tensor, nn

from harness import seeds
from harness.attacks.attack import Attack, Norm
from harness.attacks.autoattack.squares import Squares
from harness.attacks.batch import logits, margin, may_leave
from harness.settings import Count, Mistakes, Radius, distinct

_Finite = Annotated[Radius, Field(allow_inf_nan=False)]
_DRAWN = 64  # queries whose words are drawn at once
# The squares' share of the image is halved after each of these queries of 10,000.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(Attack):
    """Square Attack in linf and l2 (Andriushchenko et al. 2020) and in l1 (Croce & Hein 2021)."""

    model_config = ConfigDict(serialize_by_alias=True)

    title: ClassVar[str] = "Square"
    revision: ClassVar[int] = 0

    method: Literal["square"]
    # ``norm`` is a property of every attack; in a study the setting is called so, too.
    ball: Literal["linf", "l2", "l1"] = Field("linf", alias="norm", description="of the radii")
    epsilon: Annotated[tuple[_Finite, ...], Field(min_length=1), AfterValidator(distinct)]
    queries: Count = Field(5000, description="squares tried on an image")
    p_init: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="share of the image that the first squares cover"
    )
    restarts: Annotated[int, Field(ge=1, description="searches of an image until one fools it")] = 1

    @model_validator(mode="after")
    def _linf_is_at_most_one(self) -> Self:
        if self.ball == "linf" and max(self.epsilon) > 1:
            came = f"should be at most 1 in linf, as values are in [0, 1], got {max(self.epsilon):g}"
            raise Mistakes([("epsilon", came)])
        return self

    @property
    def norm(self) -> Norm:
        return self.ball

    def cost(self, classes: int, values: int) -> float:
        """A forward pass, a third of a gradient, a query, as if none fooled before."""
        return self.queries * self.restarts * len(self.epsilon) / 3

    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, seed: int, batch_size: int
    ) -> list[Tensor]:
        """Andriushchenko et al. 2020, algorithms 1 to 3, with the margin as loss.

        Squares are drawn by (seed, image id, query), the same for every epsilon, and each image has its own.
        An image is left where it first fools the network, a clean one that does as it is; restarts are for
        those that no search fooled, and the last one's image is returned. Networks that draw make all
        queries of all restarts.
        """
        with torch.no_grad():
            return [
                self._moved(network, images, labels, ids, seed, batch_size, epsilon)
                for epsilon in self.epsilon
            ]

    def _moved(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        ids: Tensor,
        seed: int,
        batch_size: int,
        epsilon: float,
    ) -> Tensor:
        """The images for one radius."""
        squares, moved = Squares(self.ball, epsilon), images.clone()
        search = _Search.of(network, squares, images, images, labels, batch_size)
        going = search.going()
        for restart in range(self.restarts):
            if not len(going):
                break
            first = restart * (self.queries + 1)  # the start's draw, then one a query
            clean, label, names = images[going], labels[going], ids[going]
            drawn = seeds.uniform(seed, names, torch.full_like(names, first), squares.start_words(clean))
            start = squares.start(clean, drawn)
            search = _Search.of(network, squares, clean, start, label, batch_size)
            for side, queries in self._schedule(clean.shape[2], clean.shape[3]):
                draws = torch.arange(queries.start, queries.stop, device=ids.device) + first + 1
                search.climb(side, _drawn(seed, names, draws, squares.words(clean)))
            moved[going] = search.best
            going = going[search.going()]
        return moved

    def _schedule(self, height: int, width: int) -> Iterator[tuple[int, range]]:
        """The squares' side, for at most 64 queries each: their share of the image halves nine times."""
        smallest = 1 if self.ball == "linf" else 3

        def side(query: int) -> int:
            halvings = bisect_left(_HALVED_AFTER, int(query / self.queries * 10_000))
            length = max(round(math.sqrt(self.p_init / 2**halvings * height * width)), smallest)
            # Odd in l2 and l1: their squares have two unequal halves, and a middle.
            length += self.ball != "linf" and length % 2 == 0
            return min(length, height, width)

        for length, group in groupby(range(self.queries), side):
            queries = list(group)
            for begin in range(queries[0], queries[-1] + 1, _DRAWN):
                yield length, range(begin, min(begin + _DRAWN, queries[-1] + 1))


@dataclass
class _Search:
    """A search under way: for each image the best so far, its margin, and whether it fools the network."""

    network: nn.Module
    squares: Squares
    batch_size: int
    clean: Tensor  # [B, C, H, W], as ``best``
    labels: Tensor  # [B], as what follows
    best: Tensor
    margins: Tensor
    fooled: Tensor

    @classmethod
    def of(
        cls,
        network: nn.Module,
        squares: Squares,
        clean: Tensor,
        start: Tensor,
        labels: Tensor,
        batch_size: int,
    ) -> Self:
        """A search that begins at ``start``."""
        outputs = logits(network, start, batch_size)
        fooled = outputs.argmax(1) != labels
        return cls(network, squares, batch_size, clean, labels, start, margin(outputs, labels), fooled)

    def is_going(self) -> Tensor:
        """Which images have squares to try, bool [B]."""
        return ~self.fooled if may_leave(self.network) else torch.ones_like(self.fooled)

    def going(self) -> Tensor:
        """Their rows."""
        return self.is_going().nonzero()[:, 0]

    def climb(self, side: int, words: Tensor) -> None:
        """Try the squares of ``words`` [B, queries, words] one after another, each on the best so far.

        As few squares are better, an image's next ones are tried at once where there is room in the batch;
        those after the first that is better are tried again, on it. A square that changes nothing has the
        margin that is known and isn't tried. Neither changes what is found.
        """
        count = words.shape[1]
        tried = torch.zeros_like(self.labels)
        while len(rows := (self.is_going() & (tried < count)).nonzero()[:, 0]):
            ahead = max(1, self.batch_size // len(rows))
            query = tried[rows, None] + torch.arange(ahead, device=rows.device)
            row, column = (query < count).nonzero(as_tuple=True)
            image = rows[row]
            best = self.best[image]
            trial = self.squares.proposal(self.clean[image], best, words[image, query[row, column]], side)
            changed = (trial != best).flatten(1).any(1).nonzero()[:, 0]
            first = torch.full_like(rows, ahead)  # the first square that is better
            if len(changed):
                row, column, image, trial = row[changed], column[changed], image[changed], trial[changed]
                outputs = logits(self.network, trial, self.batch_size)
                margins, fooled = margin(outputs, self.labels[image]), outputs.argmax(1) != self.labels[image]
                better = fooled | (margins < self.margins[image])
                first.scatter_reduce_(0, row[better], column[better], "amin")
                kept = (better & (column == first[row])).nonzero()[:, 0]
                self.best[image[kept]] = trial[kept]
                self.margins[image[kept]] = margins[kept]
                self.fooled[image[kept]] = fooled[kept]
            tried[rows] += (first + 1).clamp(max=ahead)


def _drawn(seed: int, ids: Tensor, draws: Tensor, size: int) -> Tensor:
    """Uniform words of every image and draw, [B, draws, size]."""
    count = len(draws)
    each = seeds.uniform(seed, ids.repeat_interleave(count), draws.repeat(len(ids)), size)
    return each.view(len(ids), count, size)
