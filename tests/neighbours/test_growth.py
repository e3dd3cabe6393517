"""The model of the bound's cost: it finds the law that made its measurements."""

from dataclasses import replace

import pytest

from harness.errors import HarnessError
from harness.neighbours.growth import BoundModel, Growth, elsewhere, packaged

SIZES = (1_000, 5_000, 20_000, 80_000)


def law(n: int, values: int, scale: float, exponent: float) -> Growth:
    candidates = scale * n**exponent
    return Growth(
        f"data {values}", n, values, 1e-7 + 5e-9 * n + (2e-7 + 1e-10 * values) * candidates, candidates
    )


def test_fit_finds_the_law():
    rows = [law(n, 784, 2, 0.3) for n in SIZES] + [law(n, 3072, 0.5, 0.7) for n in SIZES]
    rows.append(Growth("data 784", 500, 784, 500 * 784 * 3e-11, 500))  # all pairs
    model = BoundModel.fit(rows)
    assert model.query_s == pytest.approx(1e-7)
    assert model.pair_s == pytest.approx(5e-9)
    assert model.candidate_s == pytest.approx(2e-7)
    assert model.value_s == pytest.approx(1e-10)
    assert model.brute_s == pytest.approx(3e-11)
    assert model.error < 1e-6
    assert model.curves["data 3072"] == pytest.approx((3072, 0.5, 0.7))
    expected = law(1_000_000, 3072, 0.5, 0.7)
    assert model.seconds(10, 1_000_000, 4_000) == pytest.approx(
        10 * (1e-7 + 5e-9 * 1e6 + (2e-7 + 1e-10 * 4_000) * expected.candidates)
    )
    assert model.seconds(1, 10, 784) == pytest.approx(10 * 784 * 3e-11)  # all pairs are cheaper there


def test_a_gpu_compares_all_pairs_of_few_images_and_filters_many():
    rows = [law(n, 784, 2, 0.3) for n in SIZES]
    rows = [replace(row, gpu_blocks=100, gpu_candidates=3 * row.images**0.5) for row in rows]
    model = BoundModel.fit(rows)
    assert model.gpu_seconds(10, 50_000, 784) == pytest.approx(10 * 50_000 * 784 / 2e12)
    differences = 1e6 * 100 + 3 * 1e3 * 784
    assert model.gpu_seconds(10, 1_000_000, 784) == pytest.approx(10 * differences / 2e12)


def test_costs_are_never_negative():
    rows = [Growth("data", n, 784, 1e-6 * n, 1e3 / n) for n in SIZES]
    model = BoundModel.fit(rows)
    assert model.pair_s == pytest.approx(1e-6)
    assert model.candidate_s >= 0


def test_too_few_sizes():
    with pytest.raises(HarnessError, match="harness benchmark growth"):
        BoundModel.fit([law(n, 784, 2, 0.3) for n in SIZES[:2]])


def test_the_packaged_measurements_give_a_model():
    model = BoundModel.fit(packaged())
    times = dict(elsewhere(model, 1_281_167, 12_288))
    assert len(times) == 6
    assert all(seconds > 0 for seconds in times.values())
    assert "ns x images" in model.describe()
