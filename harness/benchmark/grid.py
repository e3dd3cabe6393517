"""Many trainings as a study launches them: what a grid costs beside them, and one of them on two workers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.benchmark.setting import SMOKE, Setting
from harness.benchmark.timing import OURS, Case, Contender
from harness.networks.device import device_name
from harness.pipeline.run import Silent, prepare, run_steps
from harness.results.store import Store
from harness.study.reading import build
from harness.study.spec import Study

_PERTURBATIONS = 2


def grid(setting: Setting) -> Iterator[Case]:
    """A grid of tiny trainings, two epochs each: seconds a cell beyond its training, after the first."""
    cells = setting.sizes.cells
    tiny = {"source": "digits", "train_limit": 400, "test_limit": 50}

    def contender(world: int) -> Contender:
        k = tuple(0.5 + i for i in range(cells))
        study = _study(tiny, {"architecture": "convnet", "width": 4}, world, k, 64)

        def run(state: _Prepared) -> Mapping[str, float]:
            trained, ended = _train(study, state)
            # The first cell pays for starting the workers; which one was first does not matter, they are
            # alike.
            training_s = sum(_seconds(rows) for rows in trained)
            spent = training_s * (cells - 1) / cells
            return {"overhead_s": max(0.0, ended[-1] - ended[0] - spent) / (cells - 1)}

        return _of_world(world, study, setting, run, cells)

    name = f"{cells} trainings of a tiny network, 2 epochs each"
    yield _case_of_worlds(setting, "grid", name, "cells", cells, contender)


def ddp(setting: Setting) -> Iterator[Case]:
    """The second epoch of one training by one worker and by two, at equal global batch.

    Each worker has one CPU thread (or one GPU).
    """
    subject, images = setting.subjects[0], setting.sizes.samples
    samples = _PERTURBATIONS * images
    data = subject.dataset.model_dump(exclude_none=True) | {"train_limit": images, "test_limit": 50}

    def contender(world: int) -> Contender:
        study = _study(data, {"architecture": "convnet", "width": subject.width}, world, (1.0,), 256)

        def run(state: _Prepared) -> Mapping[str, float]:
            ((*_, last),), _ended = _train(study, state)
            return {"seconds": samples / last["images_per_s"], "accuracy": last["clean_accuracy"]}

        return _of_world(world, study, setting, run, samples)

    name = f"{subject.title}: defense epoch, small network (width {subject.width}), a thread a worker"
    yield _case_of_worlds(setting, "ddp", name, "samples", samples, contender)


_Prepared = tuple[Store, "tempfile.TemporaryDirectory[str]", Path | None]


def _of_world(
    world: int,
    study: Study,
    setting: Setting,
    run: Callable[[_Prepared], Mapping[str, float]],
    measured: int,
) -> Contender:
    """The study's trainings, each by ``world`` workers."""
    note = "one worker a training" if world == 1 else f"DDP over {world} workers"
    name = f"{OURS}, world size {world}"
    if world > setting.workers:
        return Contender(name, None, measured, f"{note}: not on {_room(setting)}")
    return Contender(name, run, measured, note, lambda: _prepare(study, setting), lambda: None)


def _room(setting: Setting) -> str:
    one = "GPU" if setting.device.type == "cuda" else "thread"
    return f"{setting.workers} {one}{'' if setting.workers == 1 else 's'}"


def _case_of_worlds(
    setting: Setting, part: str, name: str, unit: str, amount: int, contender: Callable[[int], Contender]
) -> Case:
    worlds = (2,) if setting.sizes is SMOKE else (1, 2)
    contenders = tuple(contender(world) for world in worlds)
    return Case(part, name, unit, amount, setting.threads, device_name(setting.device), contenders)


def _study(
    data: Mapping[str, Any], network: Mapping[str, Any], world: int, k: tuple[float, ...], batch_size: int
) -> Study:
    """Defense trainings of two epochs, one after the other, each by ``world`` workers."""
    defense = {
        "k": list(k),
        "n": _PERTURBATIONS,
        "epochs": 2,
        "batch_size": batch_size,
        "workers": world,
    }
    return build(
        {
            "name": f"world-{world}",
            "dataset": dict(data),
            "network": dict(network),
            "base": {"epochs": 1, "batch_size": 64},
            "attacks": {"fgsm": {"epsilon": [0.1]}},
            "defenses": {"imperceptible_bound": defense},
            "white_box": {"epsilon": [0.1], "step_divisors": [4]},
            "compute": {"workers": world},
        }
    )


def _prepare(study: Study, setting: Setting) -> _Prepared:
    """Results in which all is done that the trainings start from."""
    folder = tempfile.TemporaryDirectory()
    store = Store(Path(folder.name))
    run_steps(prepare(study, store, setting.data, Silent()), ("bound", "base-network"))
    return store, folder, setting.data


def _train(study: Study, state: _Prepared) -> tuple[list[list[dict[str, Any]]], list[float]]:
    """The rows of each training, and when their files were written, in order of time."""
    store, folder, data = state
    run = prepare(study, store, data, Silent())
    run_steps(run, ("defense",))
    ended = sorted(store.modified(network.cell.path) for network in run.plan.defended)
    rows = [store.read(network.cell).to_pylist() for network in run.plan.defended]
    folder.cleanup()
    return rows, ended


def _seconds(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["epoch_s"] for row in rows))
