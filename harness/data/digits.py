"""scikit-learn's digits: 1,797 grey images of 8 x 8, which come with the package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from harness.data.source import Source, Split, Splits, stratified
from harness.errors import HarnessError

_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # the split belongs to the source, so no study's seed moves it


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 [1797, 8, 8], 0..16, and their labels, int64 [1797]."""
    file = _file()
    if not file.is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.uint8), digits.target.astype(np.int64)
    table = np.loadtxt(file, dtype=np.int64, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].copy()


def _file() -> Path:
    """Where scikit-learn keeps them: reading that takes a twentieth of the time of importing the package."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise HarnessError("the digits come with scikit-learn, which is not installed")
    return Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def _open(_: list[Path]) -> Splits:
    """80 % train, 20 % test, stratified; ids are positions in scikit-learn's array, so no id is in both."""
    values, labels = arrays()
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)[:, None]
    random = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    test = stratified(labels, round(_TEST_SHARE * len(labels)), random)
    train = np.setdiff1d(np.arange(len(labels)), test)

    def split(ids: np.ndarray) -> Split:
        return Split(labels[ids], ids, lambda kept: pixels[kept])

    return Splits(dict(enumerate("0123456789")), split(train), split(test))


DIGITS = Source(files=(), open=_open, builtin=arrays)
