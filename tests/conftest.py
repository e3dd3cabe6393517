"""What several test modules share: a tiny study, its data, and one Ray for the whole session."""

import atexit
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Credentials of no one, set before Ray starts its workers: no test can reach an account of yours.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true"
)
DATA = os.environ.get("HARNESS_DATA")
HAS_GPU = torch.cuda.is_available()


def pytest_unconfigure() -> None:
    """Nothing is said after the summary: with torch, DuckDB's bindings list their types as leaked at exit."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU and data tests say why they are skipped; the order is that of ``_place``."""
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
        if item.get_closest_marker("data") and not DATA:
            item.add_marker(pytest.mark.skip(reason="HARNESS_DATA names no data folder"))
        if item.get_closest_marker("cluster") and "HARNESS_TWO_HOSTS" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs machines of its own: make cluster-test"))
        if item.get_closest_marker("slurm") and "HARNESS_TWO_HOSTS" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs Slurm and machines of its own: make slurm-test"))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    """Tests with a Ray of their own first: some take a minute or two, and processes that share out the files
    should not wait for one at the end. Those that share a Ray come last, so that it starts once.
    """
    if item.get_closest_marker("ray") is None:
        return 1
    return 2 if "ray_session" in getattr(item, "fixturenames", ()) else 0


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """This machine without its GPU: for torch here, and for the processes that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Only tests that are marked so use a GPU; the others compare with sums made on the CPU.

    Around a test's fixtures, too, however long they live.
    """
    with nullcontext() if item.get_closest_marker("gpu") else on_the_cpu():
        return (yield)


@pytest.fixture(autouse=True)
def _threads() -> None:
    """Two in all: of this process, or one of each where two run the tests (`make test`)."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A small local Ray with four logical cores, whose workers are forked as those of a study are."""
    import ray

    from harness.cluster import forkserver

    with ExitStack() as ended:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", _import_path())
            python = ended.enter_context(forkserver.running())
            ray.init(
                address="local",
                runtime_env={"py_executable": python} if python else None,
                num_cpus=4,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=150_000_000,
                log_to_driver=False,
                logging_level="ERROR",
            )
        yield
        ray.shutdown()


def _import_path() -> str:
    """Where workers find the functions that tests define: here and in the folders with tests, then ours."""
    here = Path(__file__).parent
    folders = sorted({here, *(path.parent for path in here.rglob("test_*.py"))})
    own = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([own] if own else [])])


@pytest.fixture(scope="session")
def object_store() -> Iterator[Any]:
    """An S3 server on loopback with one bucket."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'harness[dev]'")
    from object_store import ObjectStore

    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def tiny() -> dict[str, Any]:
    """See ``tiny_study``."""
    return tiny_study()


def tiny_study() -> dict[str, Any]:
    """A study that runs through all steps in seconds: 120 training and 40 test digits."""
    return {
        "name": "tiny",
        "dataset": {"source": "digits", "train_limit": 120, "test_limit": 40},
        "network": {"architecture": "convnet", "width": 4},
        "base": {"epochs": 3, "learning_rate": 0.01, "batch_size": 32},
        "attacks": {"fgsm": {"epsilon": [0.1, 0.3]}, "deepfool": {"steps": 10}},
        "batch_size": 4,
        "controls": False,
        "checks": {"enabled": False},
        "defenses": {
            "imperceptible_bound": {"k": [1, 2], "n": [2], "epochs": 1},
            "adversarial_images": {"epochs": 1, "sources": [{"attack": "fgsm", "epsilon": 0.1}]},
        },
        "white_box": {"epsilon": [0.1], "step_divisors": [4], "steps": 3},
        "compute": {"workers": 0},
    }


class Silence:
    """A ``Progress`` that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.notes: list[tuple[str, str]] = []  # of a step, as it advances

    def begin(self, step: str, total: int, unit: str, done: int) -> None:
        self.begun.append((step, total, done))

    def advance(self, step: str, amount: int = 1, note: str = "") -> None:
        self.notes.append((step, note))

    def end(self, step: str) -> None:
        pass


def run_study(data: dict[str, Any], results: Path | str, **changes: Any) -> Any:
    """Run all steps of a study given as plain data; the finished Run."""
    from harness.pipeline.run import prepare, run_steps
    from harness.results.store import Store
    from harness.study.reading import build

    run = prepare(build({**data, **changes}), Store(results), None, Silence())
    run_steps(run)
    return run


def snapshot(results: Path | str) -> dict[str, dict[str, list[Any]]]:
    """Every cell's measured values by path, without what is a matter of time and place."""
    from harness.results.records import SCHEMAS
    from harness.results.store import Store

    found, store = {}, Store(results)
    for path in store.files():
        table = store.rows(path)
        found[str(path)] = {column: table[column].to_pylist() for column in SCHEMAS[path.parts[0]].measured}
    return found


def images(
    seed: int, count: int, classes: int, shape: tuple[int, int, int] = (1, 4, 4), values: int = 256
) -> Any:
    """Random images of some classes with ascending, gapped ids."""
    from harness.data.datasets import Images

    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    return Images(
        rng.integers(0, values, (count, *shape)).astype(np.uint8),
        labels.astype(np.int64),
        np.arange(count, dtype=np.int64) * 3 + 5,
    )
