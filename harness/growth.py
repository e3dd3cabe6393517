"""How the bound's cost grows with the number of images: a model fitted to measurements, and what it foretells."""

import csv
import math
from collections import Counter
from dataclasses import dataclass
from importlib import resources

import numpy as np
from scipy.optimize import nnls

from harness.errors import HarnessError

_GPU_BLOCKS = 192  # of the filter's first level on a GPU: assumed
_GPU_ELEMENTS_PER_S = (
    2e12  # pixel differences on one H100: reasoned from its memory and instruction rates, not measured
)


@dataclass(frozen=True)
class Growth:
    """One measurement: seconds a query, and images that the first bound leaves, among ``images`` of ``values``, on one core."""

    data: str
    images: int
    values: int
    seconds: float
    candidates: float


@dataclass(frozen=True)
class BoundModel:
    """Seconds of one core for one query are query_s + pair_s * n + (candidate_s + value_s * values) * candidates(n).

    candidates = scale * n^exponent. The second term bounds the distance to every image, the third looks closer at those
    that the first bound leaves; how many these are depends on the data. Small problems take the time of all pairs,
    brute_s * n * values, where that is less.
    ``error`` is the largest relative error over the measurements that it was fitted to.
    """

    query_s: float
    pair_s: float
    candidate_s: float
    value_s: float
    brute_s: float
    curves: dict[str, tuple[int, float, float]]  # data -> (values, scale, exponent)
    error: float

    @staticmethod
    def fit(rows: list[Growth]) -> "BoundModel":
        """Least squares of relative errors. Raises HarnessError without at least three filtered sizes of one data set."""
        filtered = [row for row in rows if row.candidates < row.images]
        curves = {}
        for data in dict.fromkeys(row.data for row in filtered):
            values = Counter(row.values for row in filtered if row.data == data).most_common(1)[0][0]
            same = [row for row in filtered if row.data == data and row.values == values]
            if len(same) >= 3:
                exponent, scale = np.polyfit(
                    np.log([row.images for row in same]), np.log([row.candidates for row in same]), 1
                )
                curves[data] = (values, float(np.exp(scale)), float(exponent))
        if not curves:
            raise HarnessError(
                "the growth of the bound is not measured at three sizes: run `harness benchmark growth`"
            )
        seconds = np.array([row.seconds for row in filtered])
        terms = (
            np.array([(1.0, row.images, row.candidates, row.candidates * row.values) for row in filtered])
            / seconds[:, None]
        )
        query_s, pair_s, candidate_s, value_s = (float(cost) for cost in nnls(terms, np.ones(len(terms)))[0])
        brute = [row.seconds / (row.images * row.values) for row in rows if row.candidates >= row.images]
        brute_s = float(np.median(brute)) if brute else math.inf
        error = float(np.abs(terms @ (query_s, pair_s, candidate_s, value_s) - 1).max())
        return BoundModel(query_s, pair_s, candidate_s, value_s, brute_s, curves, error)

    def describe(self) -> str:
        """The fit in words."""
        curves = "; ".join(
            f"{data}: {scale:.2g} n^{exponent:.2f} candidates"
            for data, (_, scale, exponent) in self.curves.items()
        )
        return (
            f"time of a core for a query = {1e6 * self.query_s:.3g} us + {1e9 * self.pair_s:.3g} ns x images + "
            f"({1e9 * self.candidate_s:.3g} ns + {1e9 * self.value_s:.2g} ns x values) x candidates "
            f"({curves}); within {100 * self.error:.0f} % of every measurement"
        )

    def candidates(self, images: int, values: int) -> tuple[str, float]:
        """Whose growth is taken (the data whose images are most like in size), and images that the first bound leaves."""
        data = min(self.curves, key=lambda name: abs(math.log(self.curves[name][0] / values)))
        _, scale, exponent = self.curves[data]
        return data, min(images, scale * images**exponent)

    def seconds(self, queries: int, images: int, values: int) -> float:
        """Of one core."""
        filtered = (
            self.query_s
            + self.pair_s * images
            + (self.candidate_s + self.value_s * values) * self.candidates(images, values)[1]
        )
        return queries * min(filtered, self.brute_s * images * values)


def packaged() -> list[Growth]:
    """The measurements that come with the harness: `harness benchmark growth` on the CPU that growth.csv names."""
    with (resources.files("harness") / "growth.csv").open() as file:
        return [
            Growth(
                row["data"],
                int(row["images"]),
                int(row["values"]),
                float(row["seconds"]),
                float(row["candidates"]),
            )
            for row in csv.DictReader(line for line in file if not line.startswith("#"))
        ]


def elsewhere(model: BoundModel, n: int, values: int) -> list[tuple[str, float]]:
    """(machine, seconds) of the bound of n images among themselves on other machines; each line says what it assumes."""
    data, left = model.candidates(n, values)
    assumed = f"{_GPU_ELEMENTS_PER_S:.0e} differences/s a GPU"
    brute, filtered = (
        n * n * values / _GPU_ELEMENTS_PER_S,
        n * (n * _GPU_BLOCKS + left * values) / _GPU_ELEMENTS_PER_S,
    )
    alone = model.seconds(n, n, values)
    return [
        (f"1 core like those measured; {left:,.0f} candidates a query, grown as on {data}", alone),
        ("64 such cores on a cluster, shared out evenly", alone / 64),
        (f"1 H100, all pairs; assumed {assumed}, not measured", brute),
        ("8 H100, all pairs; the same", brute / 8),
        (f"1 H100, filtered by {_GPU_BLOCKS} block sums; the same", filtered),
        ("8 H100, filtered; the same", filtered / 8),
    ]
