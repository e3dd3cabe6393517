"""Many trainings as a study launches them: what a grid costs beside its trainings, and one training on two workers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import pipeline, spec, training
from harness.benchmark.setting import SMOKE, Setting, Silent
from harness.benchmark.timing import OURS, Case, Contender
from harness.store import Store

_PERTURBATIONS = 2


def grid(setting: Setting) -> Iterator[Case]:
    """A grid of tiny trainings, two epochs each: seconds a cell beyond the training itself, after the first cell."""
    cells = setting.sizes.cells
    tiny = {"source": "digits", "train_limit": 400, "test_limit": 50}

    def contender(world: int) -> Contender:
        study = _study(
            tiny, {"architecture": "convnet", "width": 4}, world, tuple(0.5 + i for i in range(cells)), 64
        )

        def run(state: _Prepared) -> Mapping[str, float]:
            trained, ended = _train(study, state)
            # The first cell pays for starting the workers; which one was first does not matter, they are alike.
            spent = sum(sum(row["epoch_s"] for row in rows) for rows in trained) * (cells - 1) / cells
            return {"overhead_s": max(0.0, ended[-1] - ended[0] - spent) / (cells - 1)}

        return Contender(
            f"{OURS}, world size {world}",
            run,
            cells,
            _world(world),
            lambda: _prepare(study, setting),
            lambda: None,
        )

    yield _case_of_worlds(
        setting, "grid", f"{cells} trainings of a tiny network, 2 epochs each", "cells", cells, contender
    )


def ddp(setting: Setting) -> Iterator[Case]:
    """The second epoch of one training by one worker and by two, each with one CPU thread (or one GPU), at equal global batch."""
    subject, images = setting.subjects[0], setting.sizes.samples
    data = subject.dataset.model_dump(exclude_none=True) | {"train_limit": images, "test_limit": 50}

    def contender(world: int) -> Contender:
        study = _study(data, {"architecture": "convnet", "width": subject.width}, world, (1.0,), 256)

        def run(state: _Prepared) -> Mapping[str, float]:
            ((*_, last),), _ended = _train(study, state)
            return {
                "seconds": _PERTURBATIONS * images / last["images_per_s"],
                "accuracy": last["clean_accuracy"],
            }

        note = _world(world)
        return Contender(
            f"{OURS}, world size {world}",
            run,
            _PERTURBATIONS * images,
            note,
            lambda: _prepare(study, setting),
            lambda: None,
        )

    name = f"{subject.title}: defense epoch, small network (width {subject.width}), a thread a worker"
    yield _case_of_worlds(setting, "ddp", name, "samples", _PERTURBATIONS * images, contender)


def _world(world: int) -> str:
    return "one worker a training" if world == 1 else f"DDP over {world} workers"


def _case_of_worlds(
    setting: Setting, part: str, name: str, unit: str, amount: int, contender: Callable[[int], Contender]
) -> Case:
    worlds = (2,) if setting.sizes is SMOKE else (1, 2)
    contenders = tuple(contender(world) for world in worlds if world <= setting.threads)
    return Case(part, name, unit, amount, setting.threads, training.device_name(setting.device), contenders)


_Prepared = tuple[Store, "tempfile.TemporaryDirectory[str]", Path | None]


def _study(
    data: Mapping[str, Any], network: Mapping[str, Any], world: int, k: tuple[float, ...], batch_size: int
) -> spec.Study:
    """Defense trainings of two epochs, one after the other, each by ``world`` workers."""
    return spec.build(
        {
            "name": f"world-{world}", "dataset": dict(data), "network": dict(network),
            "base": {"epochs": 1, "batch_size": 64}, "attacks": {"fgsm": {"epsilon": [0.1]}},
            "defense": {"k": list(k), "n": [_PERTURBATIONS], "epochs": 2, "batch_size": batch_size, "workers": world},
            "white_box": {"epsilon": [0.1], "step_divisors": [4]}, "compute": {"workers": world},
        }
    )  # fmt: skip


def _prepare(study: spec.Study, setting: Setting) -> _Prepared:
    """Results in which all is done that the trainings start from."""
    folder = tempfile.TemporaryDirectory()
    store = Store(Path(folder.name))
    pipeline.run_steps(pipeline.prepare(study, store, setting.data, Silent()), ("bound", "base-network"))
    return store, folder, setting.data


def _train(study: spec.Study, state: _Prepared) -> tuple[list[list[dict[str, Any]]], list[float]]:
    """The rows of each training, and when their files were written, in order of time."""
    store, folder, data = state
    run = pipeline.prepare(study, store, data, Silent())
    pipeline.run_steps(run, ("defense",))
    ended = sorted(store.modified(network.cell.path) for network in run.plan.defenses)
    rows = [store.read(network.cell).to_pylist() for network in run.plan.defenses]
    folder.cleanup()
    return rows, ended
