"""The bound against plain FAISS, FAISS tiled, torch, scikit-learn and SciPy; and how its cost grows.

The harness runs its whole step as a study does: over Ray, both splits, both kinds of neighbour, the files
written. The brute forces compare a sample of the queries with the whole training split, without
classes: their cost is proportional to the pairs, and the sample's time is scaled to the same work.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.benchmark import peers
from harness.benchmark.setting import Setting, Subject
from harness.benchmark.timing import OURS, Case, Contender
from harness.data.datasets import Dataset, Images
from harness.neighbours import filter, learning, nearest
from harness.networks.device import device_name
from harness.pipeline.run import Run, Silent, prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build
from harness.study.spec import Study


def cases(setting: Setting) -> Iterator[Case]:
    """The whole bound of every data set."""
    device = device_name(setting.device)
    for subject in setting.subjects:
        dataset = setting.load(subject, setting.sizes.limit, setting.sizes.limit)
        images = len(dataset.train.ids)
        queries = images + len(dataset.test.ids)
        pairs = queries * images
        workers = dict.fromkeys((setting.workers, 1))
        contenders = [_step(setting, subject, count, pairs) for count in workers]
        contenders += _brute(setting, dataset)
        name = f"{subject.title}: {queries:,} queries, {images:,} images"
        shape = _shape(dataset.train)
        yield Case("bound", name, "pairs", pairs, setting.threads, device, tuple(contenders), shape)


_Prepared = tuple[Run, "tempfile.TemporaryDirectory[str]"]


def _step(setting: Setting, subject: Subject, workers: int, pairs: int) -> Contender:
    """The study's step, from images in memory to files."""
    study = _study(setting, subject, workers)

    def prepared() -> _Prepared:
        folder = tempfile.TemporaryDirectory()
        run = prepare(study, Store(Path(folder.name)), setting.data, Silent(), ("bound",))
        _ = run.shared_dataset  # reading images is not what is measured
        return run, folder

    def run(state: _Prepared) -> Mapping[str, float]:
        study_run, folder = state
        run_steps(study_run, ("bound",))
        folder.cleanup()
        return {}

    name = OURS if workers == setting.workers else f"{OURS}, one worker"
    note = f"{workers} Ray workers" if workers > 1 else "1 Ray worker"
    return Contender(name, run, pairs, note, prepared, warm_up=lambda: None)


def _study(setting: Setting, subject: Subject, workers: int) -> Study:
    dataset = subject.dataset.model_dump(exclude_none=True)
    if setting.sizes.limit:
        dataset |= {"train_limit": setting.sizes.limit, "test_limit": setting.sizes.limit}
    return build(
        {
            "name": "benchmark",
            "dataset": dataset,
            "network": {"architecture": "convnet"},
            "base": {"epochs": 1},
            "attacks": {"fgsm": {"epsilon": [0.1]}},
            "white_box": {"epsilon": [0.1]},
            "compute": {"workers": workers},
        }
    )


def _brute(setting: Setting, dataset: Dataset) -> Iterator[Contender]:
    """The peers, and all pairs by FAISS on tiles that fit the cache.

    The tiles are what the harness does without its filter.
    """
    train, test = dataset.train, dataset.test
    count = max(1, setting.sizes.pairs // len(train.ids))
    sample = test.take(np.sort(np.random.default_rng(0).permutation(len(test.ids))[:count]))
    queries, database = (nearest.rows_of(images).astype(np.float32) for images in (sample, train))
    expected = nearest.search_tiled(sample, train, False).any_class.distance

    def tiled(_: Any) -> Mapping[str, float]:
        peers.faiss_threads(setting.threads)
        distance = nearest.search_tiled(sample, train, False).any_class.distance
        return {"agreement": float(np.mean(distance == expected))}

    where = "" if setting.device.type == "cpu" else ", on the CPU"
    note = f"{count:,} queries, scaled{where}"
    yield Contender("FAISS L1, tiled", tiled, count * len(database), note, warm_up=lambda: None)
    # The slow ones get a part: a twentieth is still seconds.
    for name, call in peers.NEAREST.items():
        some = count if name == "FAISS L1" else max(1, count // 20)

        def run(_: Any, call: Callable[..., np.ndarray] = call, some: int = some) -> Mapping[str, float]:
            distance = np.rint(call(queries[:some], database, setting.threads)).astype(np.int64)
            return {"agreement": float(np.mean(distance == expected[:some]))}

        note = f"{some:,} queries, scaled{where}"
        yield Contender(name, run, some * len(database), note, warm_up=lambda: None)


def growth(setting: Setting) -> Iterator[Case]:
    """Time and candidates a query of the filter for CPUs, against the number of images and of values.

    One thread, no Ray; on a machine with a GPU as on any other.
    """
    for subject in setting.subjects:
        every = setting.load(subject, setting.sizes.limit)
        sizes = [n for n in setting.sizes.growth if n <= len(every.train.ids)]
        for n in sizes:
            yield _growth(setting, subject.title, setting.load(subject, n))
        for factor in (2, 0.5):
            middle = setting.load(subject, sizes[len(sizes) // 2])
            train, test = (_resized(images, factor) for images in (middle.train, middle.test))
            yield _growth(setting, subject.title, Dataset(middle.classes, train, test))


def _growth(setting: Setting, title: str, dataset: Dataset) -> Case:
    queries = dataset.test.take(np.arange(min(setting.sizes.growth_queries, len(dataset.test.ids))))
    count, shape = len(queries.ids), _shape(dataset.train)
    index = learning.index(dataset.train)

    def run(_: Any) -> Mapping[str, float]:
        peers.faiss_threads(1)
        if index:
            neighbours = filter.search(queries, dataset.train, False, index)
        else:
            neighbours = nearest.search_tiled(queries, dataset.train, False)
        work = neighbours.work
        candidates = work.kept[0] if work.kept else work.exact
        return {"candidates": candidates / count}

    name = f"{title}: {shape['images']:,} x {shape['values']:,}"
    contenders = (Contender(OURS, run, count),)
    on = device_name(torch.device("cpu"))
    return Case("growth", name, "queries", count, 1, on, contenders, shape)


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
