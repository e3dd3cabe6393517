"""MLflow as an index of the results: numbers computed by hand, nothing doubled, rebuilt from the files."""

import json
import math
import os
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from harness import plan, spec, tracking
from harness.cells import Cell
from harness.errors import HarnessError
from harness.records import SCHEMA_VERSION
from harness.store import Store

LABELS = [0, 1, 2, 3]
STUDY = {
    "name": "mini",
    "dataset": {"source": "digits", "name": "mini-digits"},
    "network": {"architecture": "convnet"},
    "base": {"epochs": 2},
    "attacks": {"fgsm": {"epsilon": [4 / 255, 8 / 255]}, "deepfool": {}},
    "defense": {"k": [1.0, 2.5], "n": [10], "epochs": 1},
    "adversarial_training": {"epochs": 1, "sources": [{"attack": "fgsm", "epsilon": 8 / 255}]},
    "white_box": {"epsilon": [2 / 255, 8 / 255], "step_divisors": [4, 10]},
}
# Attack and epsilon * 255 -> positions in LABELS that a network other than f1 gets wrong; f1 gets one more wrong.
WRONG: dict[tuple[str, int | None], set[int]] = {
    ("none", None): set(), ("fgsm", 4): {0}, ("fgsm", 8): {0}, ("deepfool", None): {1}, ("pgd", 2): {0}, ("pgd", 8): {0, 1},
}  # fmt: skip
PLAN = plan.plan(spec.build(STUDY), "f" * 64, None)
WHITE_BOX = [e.cell for e in plan.white_box(PLAN, (PLAN.base,))]
CELLS = [*PLAN.cells(), *WHITE_BOX]
VIB = PLAN.defenses[1].cell


def write(store: Store, cell: Cell) -> None:
    """A handmade cell of a training or an evaluation."""
    columns = cell.columns
    if cell.table == "training":
        epochs = cell.spec["training"]["epochs"] + 1
        rows = {
            "epoch": list(range(epochs)), "loss": [None, *(math.inf if e == 2 else 0.5 / e for e in range(1, epochs))],
            "clean_accuracy": [0.1, 0.75, 1.0][:epochs], "images_per_s": [None, 100.0, 200.0][:epochs], "epoch_s": [0.5] * epochs,
            "peak_share": [None] * epochs,
            "device": ["cpu"] * epochs, "world_size": [1] * epochs,
        }  # fmt: skip
        store.write(cell, rows)
    elif cell.table == "evaluation":
        wrong = WRONG[columns["attack"], columns["epsilon"] and round(255 * columns["epsilon"])]
        wrong = wrong | ({2} if columns["training"] == "base" else set())
        predictions = [(label + (label in wrong)) % 4 for label in LABELS]
        # Evaluations need not have their images in one order.
        order = [3, 1, 0, 2] if columns["attack"] == "deepfool" else [0, 1, 2, 3]
        store.write(cell, {name: [values[i] for i in order] for name, values in
                           (("image_id", [10, 11, 12, 13]), ("label", LABELS), ("prediction", predictions))})  # fmt: skip


def client(store: Store) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking.destination(store).uri)


def runs(store: Store) -> dict[str, Any]:
    """Run name -> run; fails on doubles."""
    mlflow = client(store)
    found = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study with its runs in MLflow; making the database is the slow part."""
    store = Store(tmp_path_factory.mktemp("results 100%")).open()
    store.record_study("mini", PLAN.study.model_dump(mode="json"), CELLS)
    for cell in CELLS:
        write(store, cell)
    seen: list[tuple[int, int]] = []
    assert tracking.sync(store, "mini", progress=lambda done, total: seen.append((done, total))) == 4
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    return store


def test_one_run_a_network_with_its_parameters(store: Store) -> None:
    found = runs(store)
    assert set(found) == {"base", "vib k=1 n=10", "vib k=2.5 n=10", "adversarial fgsm 8/255"}
    shared = {
        "train/learning_rate": "0.001",
        "train/batch_size": "128",
        "train/precision": "float32",
        "architecture": "convnet",
        "seed": "0",
    }
    assert found["base"].data.params == {"training": "base", "train/epochs": "2", **shared}
    assert found["vib k=2.5 n=10"].data.params == {
        "training": "vib",
        "k": "2.5",
        "n": "10",
        "train/epochs": "1",
        **shared,
    }
    adversarial = found["adversarial fgsm 8/255"].data.params
    assert adversarial.pop("training_epsilon") == f"{8 / 255:.10g}"
    assert adversarial == {
        "training": "adversarial",
        "training_attack": "fgsm",
        "train/epochs": "1",
        **shared,
    }


def test_a_run_says_where_it_comes_from(store: Store) -> None:
    run = runs(store)["vib k=2.5 n=10"]
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    assert len(tags.pop("digest")) == 64
    assert tags.pop("owner") == store.identity()
    which = {"cell": VIB.key, "results": VIB.path.as_posix(), "dataset": "mini-digits"}
    assert tags == {"study": "mini", **which, "schema_version": str(SCHEMA_VERSION)}
    assert client(store).get_experiment(run.info.experiment_id).name == "mini-digits"
    assert run.info.status == "FINISHED"
    assert run.info.end_time == int((store.root / VIB.path).stat().st_mtime * 1000)
    assert run.info.end_time - run.info.start_time == 1000  # two rows of half a second


def test_accuracies_by_hand(store: Store) -> None:
    found = runs(store)
    black_box = {
        name: value
        for name, value in found["vib k=1 n=10"].data.metrics.items()
        if not name.startswith("train/")
    }
    # Image 0 falls to FGSM, image 1 to DeepFool: two of four withstand everything.
    assert black_box == {
        "acc/clean": 1.0,
        "acc/fgsm_4_255": 0.75,
        "acc/fgsm_8_255": 0.75,
        "acc/deepfool": 0.75,
        "acc/_worst": 0.5,
    }
    base = found["base"].data.metrics
    assert (base["acc/clean"], base["acc/deepfool"], base["acc/_worst"]) == (0.75, 0.5, 0.25)


def test_curves(store: Store) -> None:
    mlflow, run = client(store), runs(store)["base"].info.run_id

    def curve(name: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in mlflow.get_metric_history(run, name))

    assert curve("train/clean_accuracy") == [(0, 0.1), (1, 0.75), (2, 1.0)]
    assert curve("train/images_per_s") == [(1, 100.0), (2, 200.0)]
    assert curve("train/loss") == [(1, 0.5)]  # neither the null before training nor the infinity after
    assert curve("white_box/pgd_div_4") == curve("white_box/pgd_div_10") == [(2, 0.5), (8, 0.25)]


def test_nothing_new_is_nothing_to_do(store: Store) -> None:
    """Without MLflow where the last sync left its mark, by comparing digests where it did not."""
    script = "import sys; from pathlib import Path; from harness import tracking; from harness.store import Store\n"
    script += "print(tracking.sync(Store(Path(sys.argv[1])), 'mini'), 'mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(store.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "False"]
    before = {run.info.run_id for run in runs(store).values()}
    (store.root / "studies" / ".mini.tracked").unlink()
    assert tracking.sync(store, "mini") == 0
    assert {run.info.run_id for run in runs(store).values()} == before


def test_only_the_run_whose_cells_changed_is_made_anew(store: Store) -> None:
    removed = next(
        e.cell for e in PLAN.black_box if e.network.cell is VIB and e.cell.columns["attack"] == "deepfool"
    )
    before = {name: run.info.run_id for name, run in runs(store).items()}
    (store.root / removed.path).unlink()
    assert tracking.sync(store, "mini") == 1
    after = runs(store)
    assert [name for name in before if before[name] != after[name].info.run_id] == ["vib k=2.5 n=10"]
    # The worst case over fewer attacks than the others met would look better than it is.
    assert not {"acc/_worst", "acc/deepfool"} & set(after["vib k=2.5 n=10"].data.metrics)
    write(store, removed)
    assert tracking.sync(store, "mini") == 1
    assert runs(store)["vib k=2.5 n=10"].data.metrics["acc/_worst"] == 0.5


def test_runs_cut_off_or_no_longer_in_the_study_go(store: Store) -> None:
    mlflow, complete = client(store), runs(store)["base"]
    half = mlflow.create_run(
        complete.info.experiment_id, tags=complete.data.tags, run_name="base"
    ).info.run_id
    (store.root / "studies" / ".mini.tracked").unlink()
    assert tracking.sync(store, "mini") == 0
    assert mlflow.get_run(half).info.lifecycle_stage == "deleted"
    store.record_study("mini", {}, [cell for cell in CELLS if cell is not VIB])
    assert tracking.sync(store, "mini") == 0
    assert "vib k=2.5 n=10" not in runs(store)
    store.record_study("mini", PLAN.study.model_dump(mode="json"), CELLS)
    assert tracking.sync(store, "mini") == 1


def test_links_open_the_studys_runs(store: Store) -> None:
    found, links = runs(store), tracking.links(store, "mini", "http://host:1")
    experiment = found["base"].info.experiment_id
    page, _, query = urlsplit(links["charts"]).fragment.partition("?")
    assert page == f"/experiments/{experiment}/runs"
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"], "compareRunsMode": ["CHART"], "orderByKey": ["metrics.`acc/_worst`"],
        "orderByAsc": ["false"], "searchFilter": ['tags.study = "mini"'],
    }  # fmt: skip
    page, _, query = urlsplit(links["compare"]).fragment.partition("?")
    assert page == "/compare-runs"
    ids = [
        found[name].info.run_id
        for name in ("base", "vib k=1 n=10", "vib k=2.5 n=10", "adversarial fgsm 8/255")
    ]
    assert json.loads(parse_qs(query)["runs"][0]) == ids
    assert json.loads(parse_qs(query)["experiments"][0]) == [experiment]
    assert (
        links["runs"]
        == f"http://host:1/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=mini"
    )
    view = json.loads(client(store).get_experiment(experiment).tags["mlflow.sharedViewState.mini"])
    assert view["selectedColumns"][:3] == [
        "metrics.`acc/_worst`",
        "metrics.`acc/clean`",
        "metrics.`acc/deepfool`",
    ]


def test_mistakes_are_told(store: Store) -> None:
    with pytest.raises(HarnessError, match="no study 'minii'.*did you mean 'mini'"):
        tracking.sync(store, "minii")
    with pytest.raises(HarnessError, match="has no runs in MLflow"):
        tracking.links(store, "other")


def test_a_deleted_database_is_rebuilt_by_two_at_once_without_a_word(store: Store) -> None:
    expected = {name: run.data for name, run in runs(store).items()}
    os.unlink(store.root / "mlflow.db")
    script = "import sys; from pathlib import Path; from harness import tracking; from harness.store import Store\n"
    script += "print(tracking.sync(Store(Path(sys.argv[1])), 'mini'))"
    command = [sys.executable, "-c", script, str(store.root)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert sorted(said) == [("0\n", ""), ("4\n", "")]
    found = runs(store)
    assert {name: (run.data.metrics, run.data.params) for name, run in found.items()} == {
        name: (data.metrics, data.params) for name, data in expected.items()
    }
    assert {name: run.data.tags["digest"] for name, run in found.items()} == {
        name: data.tags["digest"] for name, data in expected.items()
    }


def test_a_database_deleted_under_a_running_process_is_rebuilt(store: Store) -> None:
    assert tracking.sync(store, "mini") == 0
    os.unlink(store.root / "mlflow.db")
    assert tracking.sync(store, "mini") == 4
    assert len(runs(store)) == 4
    assert not list(store.root.glob(".mlflow.db*"))
