"""The bound against plain FAISS, FAISS tiled to the cache, torch, scikit-learn and SciPy; and how its cost grows.

The harness runs its whole step as a study does: over Ray, both splits, both kinds of neighbour, the files
written. The brute forces compare a sample of the queries with the whole training split, without
classes: their cost is proportional to the pairs, and the sample's time is scaled to the same work.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import filter, nearest, partition, pipeline, spec, training
from harness.benchmark import peers
from harness.benchmark.setting import Setting, Silent, Subject
from harness.benchmark.timing import OURS, Case, Contender
from harness.datasets import Dataset, Images
from harness.store import Store


def cases(setting: Setting) -> Iterator[Case]:
    """The whole bound of every data set."""
    for subject in setting.subjects:
        dataset = setting.load(subject, setting.sizes.limit, setting.sizes.limit)
        queries = len(dataset.train.ids) + len(dataset.test.ids)
        contenders = [
            _step(setting, subject, workers, queries * len(dataset.train.ids))
            for workers in dict.fromkeys((setting.threads, 1))
        ]
        contenders += _brute(setting, dataset)
        yield Case(
            "bound", f"{subject.title}: {queries:,} queries, {len(dataset.train.ids):,} images", "pairs",
            queries * len(dataset.train.ids), setting.threads,
            training.device_name(setting.device), tuple(contenders), _shape(dataset.train),
        )  # fmt: skip


def _step(setting: Setting, subject: Subject, workers: int, pairs: int) -> Contender:
    """The study's step, from images in memory to files."""
    limits = {"train_limit": setting.sizes.limit, "test_limit": setting.sizes.limit}
    study = spec.build(
        {
            "name": "benchmark", "dataset": subject.dataset.model_dump(exclude_none=True) | {k: v for k, v in limits.items() if v},
            "network": {"architecture": "convnet"}, "base": {"epochs": 1}, "attacks": {"fgsm": {"epsilon": [0.1]}},
            "white_box": {"epsilon": [0.1]}, "compute": {"workers": workers},
        }
    )  # fmt: skip

    def prepare() -> tuple[pipeline.Run, "tempfile.TemporaryDirectory[str]"]:
        folder = tempfile.TemporaryDirectory()
        run = pipeline.prepare(study, Store(Path(folder.name)), setting.data, Silent())
        _ = run.shared_dataset  # reading images is not what is measured
        return run, folder

    def run(state: tuple[pipeline.Run, "tempfile.TemporaryDirectory[str]"]) -> Mapping[str, float]:
        pipeline.run_steps(state[0], ("bound",))
        state[1].cleanup()
        return {}

    name = OURS if workers == setting.threads else f"{OURS}, one worker"
    return Contender(
        name,
        run,
        pairs,
        f"{workers} Ray workers" if workers > 1 else "1 Ray worker",
        prepare,
        warm_up=lambda: None,
    )


def _brute(setting: Setting, dataset: Dataset) -> Iterator[Contender]:
    """The peers, and all pairs by FAISS on tiles that fit the cache, which is what the harness does without its filter."""
    count = max(1, setting.sizes.pairs // len(dataset.train.ids))
    sample = dataset.test.take(np.sort(np.random.default_rng(0).permutation(len(dataset.test.ids))[:count]))
    queries, database = (nearest.rows_of(images).astype(np.float32) for images in (sample, dataset.train))
    expected = nearest.search_tiled(sample, dataset.train, False).any_class.distance

    def tiled(_: Any) -> Mapping[str, float]:
        peers.faiss_threads(setting.threads)
        return {
            "agreement": float(
                np.mean(nearest.search_tiled(sample, dataset.train, False).any_class.distance == expected)
            )
        }

    yield Contender(
        "FAISS L1, tiled", tiled, count * len(database), f"{count:,} queries, scaled", warm_up=lambda: None
    )
    # The slow ones get a part: a twentieth is still seconds.
    for name, call in peers.NEAREST.items():
        some = count if name == "FAISS L1" else max(1, count // 20)

        def run(_: Any, call: Callable[..., np.ndarray] = call, some: int = some) -> Mapping[str, float]:
            found = call(queries[:some], database, setting.threads)
            return {"agreement": float(np.mean(np.rint(found).astype(np.int64) == expected[:some]))}

        yield Contender(name, run, some * len(database), f"{some:,} queries, scaled", warm_up=lambda: None)


def growth(setting: Setting) -> Iterator[Case]:
    """Time and candidates a query, against the number of images and of values; one thread, no Ray."""
    for subject in setting.subjects:
        every = setting.load(subject, setting.sizes.limit)
        sizes = [n for n in setting.sizes.growth if n <= len(every.train.ids)]
        for n in sizes:
            yield _growth(setting, subject.title, setting.load(subject, n))
        for factor in (2, 0.5):
            smaller = setting.load(subject, sizes[len(sizes) // 2])
            yield _growth(
                setting,
                subject.title,
                Dataset(
                    smaller.classes, *(_resized(images, factor) for images in (smaller.train, smaller.test))
                ),
            )


def _growth(setting: Setting, title: str, dataset: Dataset) -> Case:
    queries = dataset.test.take(np.arange(min(setting.sizes.growth_queries, len(dataset.test.ids))))
    count, shape = len(queries.ids), _shape(dataset.train)
    index = partition.index(dataset.train)

    def run(_: Any) -> Mapping[str, float]:
        peers.faiss_threads(1)
        found = (
            filter.search(queries, dataset.train, False, index)
            if index
            else nearest.search_tiled(queries, dataset.train, False)
        )
        return {"candidates": (found.work.kept or (found.work.exact,))[0] / count}

    return Case(
        "growth", f"{title}: {shape['images']:,} x {shape['values']:,}", "queries", count, 1, training.device_name(setting.device),
        (Contender(OURS, run, count),), shape,
    )  # fmt: skip


def _resized(images: Images, factor: float) -> Images:
    """The images at half or twice the size, as area means or repeated pixels."""
    pixels = images.pixels
    if factor > 1:
        pixels = pixels.repeat(2, axis=2).repeat(2, axis=3)
    else:
        n, c, h, w = pixels.shape
        cut = pixels[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
        pixels = np.rint(cut.mean(axis=(3, 5))).astype(np.uint8)
    return Images(pixels, images.labels, images.ids)


def _shape(images: Images) -> dict[str, int]:
    return {
        "images": len(images.ids),
        "values": int(np.prod(images.pixels.shape[1:])),
        "classes": len(np.unique(images.labels)),
    }
