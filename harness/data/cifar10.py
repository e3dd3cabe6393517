"""CIFAR-10 (Krizhevsky 2009): 32 x 32 colour images in Python's own batches, as torchvision keeps them."""

from pathlib import Path
from typing import Any

import numpy as np

from harness.data.source import Extent, Source, Split, Splits, fetch_by_torchvision, first_few, in_memory
from harness.errors import HarnessError

_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def _open(files: list[Path]) -> Splits:
    from torchvision.datasets import CIFAR10

    root = files[0].parents[1]
    try:
        # The batches are pickles, which can run code: safe only because torchvision compares every
        # MD5 with the official one before it unpickles anything.
        train, test = (CIFAR10(str(root), train=train) for train in (True, False))
    except RuntimeError as error:
        raise HarnessError(
            f"{first_few(_broken(root))}: truncated or corrupt: not the official MD5;"
            f" remove to download again ({error})"
        ) from error
    return Splits(dict(enumerate(train.classes)), _split(train), _split(test))


def _split(official: Any) -> Split:
    # torchvision turned [N, 3, 32, 32] to NHWC by a view; turning it back copies nothing.
    return in_memory(official.data.transpose(0, 3, 1, 2), np.asarray(official.targets))


def _broken(root: Path) -> list[Path]:
    """The batches whose MD5 is not the official one."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    meta = [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]
    official = [*CIFAR10.train_list, *CIFAR10.test_list, meta]
    paths = [(root / CIFAR10.base_folder / name, md5) for name, md5 in official]
    return [path for path, md5 in paths if not check_integrity(path, md5)]


CIFAR10 = Source(
    files=tuple(f"cifar-10-batches-py/{name}" for name in _BATCHES),
    open=_open,
    fetch=fetch_by_torchvision("CIFAR10"),
    extent=Extent(train=50_000, test=10_000, shape=(3, 32, 32), classes=10),
    paper_dataset=True,
)
