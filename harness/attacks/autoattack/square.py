"""Square: random squares, kept where they lower the margin; it asks for logits alone, no gradients."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import seeds
from harness.attacks.attack import Attack
from harness.attacks.autoattack.radii import Radii
from harness.attacks.autoattack.squares import Squares
from harness.attacks.batch import State, logits, margin, may_leave
from harness.settings import Count

_DRAWN = 64  # queries whose words are drawn at once
# The squares' share of the image is halved after each of these queries of 10,000.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(Radii, Attack):
    """Square Attack in linf and l2 (Andriushchenko et al. 2020) and in l1 (Croce & Hein 2021)."""

    title: ClassVar[str] = "Square"
    revision: ClassVar[int] = 0

    method: Literal["square"]
    queries: Count = Field(5000, description="squares tried on an image")
    p_init: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="share of the image that the first squares cover"
    )
    restarts: Annotated[int, Field(ge=1, description="searches of an image until one fools it")] = 1

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
        results = []
        for epsilon in self.epsilon:
            search, moved = _Search(network, Squares(self.ball, epsilon), batch_size), images.clone()
            going = torch.arange(len(images), device=images.device)
            for restart in range(self.restarts):
                _, fooled = search.judge(moved[going], labels[going])
                going = going[search.goes_on(fooled)]
                if len(going):
                    state = {"position": going, "clean": images[going], "label": labels[going]}
                    self._run(search, state | {"id": ids[going]}, moved, seed, restart)
            results.append(moved)
        return results

    def _run(self, search: "_Search", state: State, moved: Tensor, seed: int, restart: int) -> None:
        """One search of every image of the state, whose best goes to its ``position`` in ``moved``."""
        squares, draw = search.squares, restart * (self.queries + 1)  # the start's, then one a query
        state = search.begun(state, _words(seed, state["id"], [draw], squares.start_words(moved))[:, 0])
        moved[state["position"]] = state["kept"]
        for side, group in groupby(range(self.queries), lambda query: self._side(query, *moved.shape[2:])):
            state["known"] = state["fooled"].new_zeros(len(state["id"]), squares.count(moved, side))
            for queries in _parts(list(group), _DRAWN):
                going = search.goes_on(state["fooled"])
                state = {name: value[going] for name, value in state.items()}
                if not len(state["id"]):
                    return
                draws = [draw + 1 + query for query in queries]
                search.climb(state, _words(seed, state["id"], draws, squares.words(moved)), side)
                moved[state["position"]] = state["kept"]

    def _side(self, query: int, height: int, width: int) -> int:
        """The side of a query's square: its share of the image halves nine times."""
        halvings = bisect_left(_HALVED_AFTER, int(query / self.queries * 10_000))
        side = round(math.sqrt(self.p_init / 2**halvings * height * width))
        # Odd in l2 and l1: the square has two unequal halves, and a middle.
        side = max(side, 1) if self.ball == "linf" else max(side, 3) // 2 * 2 + 1
        return min(side, height, width)


@dataclass(frozen=True)
class _Search:
    """How images are searched.

    In their state ``kept`` is the best image so far, beside which stand its ``margin``, whether it has
    ``fooled`` the network, and the squares ``known`` to be no better, bool [B, squares].
    """

    network: nn.Module
    squares: Squares
    batch_size: int

    def judge(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The margins [B], and whether the images fool the network, bool [B]."""
        outputs = logits(self.network, images, self.batch_size)
        return margin(outputs, labels), outputs.argmax(1) != labels

    def goes_on(self, fooled: Tensor) -> Tensor:
        """Which images are searched on, bool [B]."""
        return ~fooled if may_leave(self.network) else torch.ones_like(fooled)

    def begun(self, state: State, words: Tensor) -> State:
        """The state with the start that the words [B, words] are."""
        kept = self.squares.start(state["clean"], words)
        margins, fooled = self.judge(kept, state["label"])
        return state | {"kept": kept, "margin": margins, "fooled": fooled}

    def climb(self, state: State, words: Tensor, side: int) -> None:
        """Try the squares of ``words`` [B, queries, words] one after another, each on the best so far.

        As few squares are better, an image's next ones are tried at once where there is room in the batch;
        those after the first that is better are tried again, on it. What is known of the best so far isn't
        asked again. Neither changes what is found.
        """
        known, count = state["known"], words.shape[1]
        number = self.squares.number(state["clean"], words, side) if known.shape[1] else None
        query = torch.arange(count, device=words.device)
        tried = torch.zeros_like(state["label"])
        while True:
            ahead = self.goes_on(state["fooled"])[:, None] & (query >= tried[:, None])
            if number is not None:
                ahead &= ~known.gather(1, number)
            room = self.batch_size // max(1, int(ahead.any(1).sum()))
            image, column = (ahead & (ahead.cumsum(1) <= max(1, room))).nonzero(as_tuple=True)
            if not len(image):
                return
            first = self._try(state, words, side, image, column)
            improved = first < count
            tried.scatter_reduce_(0, image, column + 1, "amax")
            tried = torch.where(improved, first + 1, tried)
            if number is not None:
                known[image, number[image, column]] = True
                known[improved] = False

    def _try(self, state: State, words: Tensor, side: int, image: Tensor, column: Tensor) -> Tensor:
        """Queries, by image and column: of each image the first that is better is kept, and returned [B].

        Where none is better, the number of queries is.
        """
        best, label = state["kept"][image], state["label"][image]
        trial = self.squares.proposal(state["clean"][image], best, words[image, column], side)
        first = torch.full_like(state["label"], words.shape[1])
        changed = (trial != best).flatten(1).any(1).nonzero()[:, 0]
        if not len(changed):
            return first
        image, column, trial = image[changed], column[changed], trial[changed]
        margins, fooled = self.judge(trial, label[changed])
        better = margins < state["margin"][image]
        if may_leave(self.network):
            better |= fooled  # two largest logits, the first of them another class's, have a margin of 0
        first.scatter_reduce_(0, image[better], column[better], "amin")
        kept = better & (column == first[image])
        for name, value in (("kept", trial), ("margin", margins), ("fooled", fooled)):
            state[name][image[kept]] = value[kept]
        return first


def _parts(queries: list[int], size: int) -> Iterator[list[int]]:
    """At most ``size`` at once."""
    for begin in range(0, len(queries), size):
        yield queries[begin : begin + size]


def _words(seed: int, ids: Tensor, draws: list[int], size: int) -> Tensor:
    """Uniform words of every image and draw, [B, draws, size]."""
    count = len(draws)
    draw = torch.tensor(draws, device=ids.device).repeat(len(ids))
    return seeds.uniform(seed, ids.repeat_interleave(count), draw, size).view(len(ids), count, size)
