"""How the bound's cost grows with the number of images: a model fitted to measurements, and its forecasts."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.neighbours.learning import GPU_WORTHWHILE

# Pixel differences on one H100: reasoned from its memory and instruction rates, not measured.
_GPU_ELEMENTS_PER_S = 2e12


@dataclass(frozen=True)
class Growth:
    """One measurement on one core, among ``images`` of ``values`` pixel values.

    ``seconds`` a query, and ``candidates``: images that the first bound leaves for it, all without a filter.
    ``gpu_candidates``: those of a GPU's first bound, by the sums of ``gpu_blocks``; 0 where there is none.
    """

    data: str
    images: int
    values: int
    seconds: float
    candidates: float
    gpu_blocks: int = 0
    gpu_candidates: float = 0.0

    @property
    def filtered(self) -> bool:
        return self.candidates < self.images


class Curve(NamedTuple):
    """Candidates of a query among n images of some data: scale * n^exponent."""

    values: int
    scale: float
    exponent: float

    def at(self, images: int) -> float:
        """Among so many images."""
        return min(images, self.scale * images**self.exponent)


@dataclass(frozen=True)
class BoundModel:
    """Seconds of one core for one query among n images.

    They are query_s + pair_s * n + (candidate_s + value_s * values) * candidates(n).
    The second term bounds the distance to every image, the third looks closer at the candidates that the
    first bound leaves; how many these are depends on the data (see ``Curve``). Small problems take the time
    of all pairs, brute_s * n * values, where that is less.
    ``error`` is the largest relative error over the measurements that it was fitted to.
    """

    query_s: float
    pair_s: float
    candidate_s: float
    value_s: float
    brute_s: float
    curves: dict[str, Curve]
    error: float
    gpu_curves: Mapping[str, tuple[int, Curve]] = field(default_factory=dict)  # with their blocks

    @staticmethod
    def fit(rows: list[Growth]) -> "BoundModel":
        """Least squares of relative errors.

        Raises HarnessError without at least three filtered sizes of one data set.
        """
        from scipy.optimize import nnls  # slow to import, and this module is imported to plan a study

        filtered = [row for row in rows if row.filtered]
        curves = _curves(filtered, lambda row: row.candidates)
        if not curves:
            raise HarnessError(
                "the growth of the bound is not measured at three sizes: run `harness benchmark growth`"
            )
        terms = np.array([(1.0, row.images, row.candidates, row.candidates * row.values) for row in filtered])
        relative = terms / np.array([row.seconds for row in filtered])[:, None]
        costs = nnls(relative, np.ones(len(relative)))[0].tolist()
        query_s, pair_s, candidate_s, value_s = costs
        error = float(np.abs(relative @ costs - 1).max())
        gpu = {row.data: row.gpu_blocks for row in rows if row.gpu_blocks}
        on_gpu = _curves([row for row in rows if row.gpu_blocks], lambda row: row.gpu_candidates)
        gpu_curves = {data: (gpu[data], curve) for data, curve in on_gpu.items()}
        brute_s = _brute_s(rows)
        return BoundModel(query_s, pair_s, candidate_s, value_s, brute_s, curves, error, gpu_curves)

    def describe(self) -> str:
        """The fit in words."""
        curves = "; ".join(
            f"{data}: {curve.scale:.2g} n^{curve.exponent:.2f} candidates"
            for data, curve in self.curves.items()
        )
        return (
            f"time of a core for a query = {1e6 * self.query_s:.3g} us + "
            f"{1e9 * self.pair_s:.3g} ns x images + "
            f"({1e9 * self.candidate_s:.3g} ns + {1e9 * self.value_s:.2g} ns x values) x candidates "
            f"({curves}); within {100 * self.error:.0f} % of every measurement"
        )

    def candidates(self, images: int, values: int) -> tuple[str, float]:
        """Whose growth is taken, and the images that the first bound leaves.

        That is the data whose images are most like in size.
        """
        data = _most_like(self.curves, values)
        return data, self.curves[data].at(images)

    def seconds(self, queries: int, images: int, values: int) -> float:
        """Of one core."""
        _, candidates = self.candidates(images, values)
        candidate_s = self.candidate_s + self.value_s * values
        filtered = self.query_s + self.pair_s * images + candidate_s * candidates
        return queries * min(filtered, self.brute_s * images * values)

    def gpu_seconds(self, queries: int, images: int, values: int) -> float:
        """Of one H100, as the search there does it: all pairs of few images, else those that a bound leaves.

        Assumed, not measured.
        """
        differences = float(images) * values
        if images >= GPU_WORTHWHILE and self.gpu_curves:
            differences = min(differences, self._gpu_filtered(images, values))
        return queries * differences / _GPU_ELEMENTS_PER_S

    def _gpu_filtered(self, images: int, values: int) -> float:
        """Differences that the filter on a GPU computes for a query: of block sums, then of candidates."""
        curves = {data: curve for data, (_, curve) in self.gpu_curves.items()}
        blocks, curve = self.gpu_curves[_most_like(curves, values)]
        return images * blocks + curve.at(images) * values


def _most_like(curves: Mapping[str, Curve], values: int) -> str:
    """The data whose images are most like in size."""
    return min(curves, key=lambda name: abs(math.log(curves[name].values / values)))


def _curves(filtered: list[Growth], candidates_of: Callable[[Growth], float]) -> dict[str, Curve]:
    """The curve of each data set that was measured at three sizes or more, at its most usual image size."""
    curves = {}
    for data in dict.fromkeys(row.data for row in filtered):
        mine = [row for row in filtered if row.data == data]
        values = Counter(row.values for row in mine).most_common(1)[0][0]
        same = [row for row in mine if row.values == values]
        if len(same) >= 3:
            images = np.log([row.images for row in same])
            candidates = np.log([candidates_of(row) for row in same])
            exponent, log_scale = np.polyfit(images, candidates, 1)
            curves[data] = Curve(values, float(np.exp(log_scale)), float(exponent))
    return curves


def _brute_s(rows: list[Growth]) -> float:
    """Seconds for a pixel of a pair where all pairs were compared; inf where that was not measured."""
    brute = [row.seconds / (row.images * row.values) for row in rows if not row.filtered]
    return float(np.median(brute)) if brute else math.inf


def packaged() -> list[Growth]:
    """The harness's own measurements: `harness benchmark growth` on the CPU that growth.csv names.

    They are of the filter in C (see ``scan``): without a compiler it takes four to seven times as long.
    """
    with (resources.files("harness.neighbours") / "growth.csv").open() as file:
        lines = (line for line in file if not line.startswith("#"))
        return [
            Growth(
                row["data"],
                int(row["images"]),
                int(row["values"]),
                float(row["seconds"]),
                float(row["candidates"]),
                int(row["gpu_blocks"]),
                float(row["gpu_candidates"]),
            )
            for row in csv.DictReader(lines)
        ]


def elsewhere(model: BoundModel, n: int, values: int) -> list[tuple[str, float]]:
    """(machine and what it assumes, seconds) of the bound of n images among themselves on other machines."""
    data, candidates = model.candidates(n, values)
    alone = model.seconds(n, n, values)
    assumed = f"{_GPU_ELEMENTS_PER_S:.0e} differences/s a GPU"
    brute = n * n * values / _GPU_ELEMENTS_PER_S
    filtered = model.gpu_seconds(n, n, values)
    return [
        (f"1 core like those measured; {candidates:,.0f} candidates a query, grown as on {data}", alone),
        ("64 such cores on a cluster, shared out evenly", alone / 64),
        (f"1 H100, all pairs; assumed {assumed}, not measured", brute),
        ("8 H100, all pairs; the same", brute / 8),
        ("1 H100, filtered by block sums where that is faster; the same", filtered),
        ("8 H100, filtered; the same", filtered / 8),
    ]
