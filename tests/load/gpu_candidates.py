"""What the filter for GPUs leaves of a search, for `growth.csv`: counted on the CPU, which takes minutes.

    python tests/load/gpu_candidates.py

Needs MNIST and CIFAR-10, or its JPEG copies, in HARNESS_DATA. Prints data, images, values, gpu_blocks and
gpu_candidates (a query's, the mean of ``_QUERIES``).
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from harness import benchmark
from harness.neighbours import learning
from harness.neighbours.nearest_gpu import Database

_QUERIES = 200


def main() -> int:
    on = torch.device("cpu")
    setting = benchmark.Setting(Path(os.environ["HARNESS_DATA"]), benchmark.FULL, 1, on)
    learning.GPU_WORTHWHILE = 0  # a GPU would compare all pairs of as few images
    for subject in setting.subjects:
        count = len(setting.load(subject, setting.sizes.limit).train.ids)
        for images in (size for size in setting.sizes.growth if size <= count):
            dataset = setting.load(subject, images)
            index = learning.index(dataset.train, gpu=True)
            if index is None:
                continue
            queries = dataset.test.take(np.arange(min(_QUERIES, len(dataset.test.ids))))
            work = Database(dataset.train, index, on).search(queries, same=False).work
            blocks, candidates = index.levels[0].rows.shape[1], work.kept[0] / len(queries.ids)
            values = dataset.train.pixels[0].size
            print(f"{subject.title},{images},{values},{blocks},{candidates:g}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
