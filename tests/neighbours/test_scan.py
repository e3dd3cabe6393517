"""The kernel in C finds what integers show, by whatever instructions, and so does the search without it."""

from pathlib import Path

import numpy as np
import pytest
from brute_force import CASES, brute, pairs, scrambled_index
from conftest import DATA, images

from harness.data import datasets
from harness.data.subset import DatasetSpec
from harness.neighbours import filter, learning, nearest, scan

# Compilers whose kernels take each of scan.c's paths, as far as this machine has the instructions.
COMPILERS = {"native": "cc", "AVX2": "cc -mno-avx512f", "plain": "cc -mno-avx512f -mno-avx2"}


@pytest.fixture(scope="module", params=[*COMPILERS, "small tiles"])
def kernel(request):
    """A kernel of the kind; tiny tiles make every seam."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", COMPILERS.get(request.param, "cc"))
        if request.param == "small tiles":
            patch.setattr(scan, "TILE", 8)
        scan.kernel.cache_clear()
        if scan.kernel() is None:
            pytest.skip("no C compiler that can")
        yield
    scan.kernel.cache_clear()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("blocks", [(2,), (2, 3, 5), (17, 30)])
def test_equals_brute_force(case, blocks, kernel):
    queries = CASES[case]
    found = filter.search(queries, queries, True, scrambled_index(queries, 0, blocks, unary=False))
    assert pairs(found) == brute(queries, queries, True)
    assert found.work.pairs == len(queries.ids) ** 2
    assert len(found.work.kept) in (len(blocks), 1 + len(blocks))


@pytest.mark.parametrize("seed", range(10))
def test_any_input_any_partition_any_part(seed, kernel):
    """Few values and small images make ties."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    database = images(seed, int(rng.integers(classes, 120)), classes, (1, 3, 4), int(rng.choice([2, 3, 256])))
    queries = images(seed + 1000, 30, classes, (1, 3, 4), 3)
    of = scrambled_index(database, seed, tuple(rng.integers(1, 12, rng.integers(1, 4)).tolist()), unary=False)
    cut = int(rng.integers(0, len(database.ids) + 1))
    for some, same in ((queries, False), (database, True)):
        for part in (slice(None), slice(0, cut), slice(cut, None)):
            found = filter.search(some, database, same, of, part)
            assert pairs(found) == pairs(nearest.search_tiled(some, database, same, part))


def test_without_a_compiler_the_same_is_found(monkeypatch):
    data = images(3, 90, 3, (1, 5, 5), 4)
    of = scrambled_index(data, 0, unary=False)
    expected = pairs(filter.search(data, data, True, of))
    for compiler in ("no-such-compiler", "false"):
        monkeypatch.setenv("CC", compiler)
        scan.kernel.cache_clear()
        assert scan.kernel() is None
        assert pairs(filter.search(data, data, True, of)) == expected == brute(data, data, True)
    scan.kernel.cache_clear()


def test_images_whose_pixels_need_more_than_32_bits_have_no_kernel():
    assert not scan.available(2**31 // 255 + 1)


@pytest.mark.data
def test_ten_thousand_mnist_images():
    mnist = datasets.load(
        DatasetSpec(source="mnist", train_limit=10_000, test_limit=10), Path(str(DATA))
    ).train
    of = learning.index(mnist)
    assert of is not None
    assert of.grid.unary == (scan.kernel() is None)
    some = mnist.take(np.arange(0, 10_000, 33))
    found = filter.search(some, mnist, True, of)
    assert pairs(found) == pairs(nearest.search_tiled(some, mnist, True))
    assert found.work.exact < 0.01 * found.work.pairs
