"""MLflow as an index of the results: numbers computed by hand, nothing doubled, rebuilt from the files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mini_study import (
    BLACK_BOX,
    CELLS,
    DATASET,
    GRID,
    NETWORKS,
    WHITE_BOX,
    bound_network,
    evaluation_rows,
    filled,
    record,
    training,
    write,
)

from harness.errors import HarnessError
from harness.results.cells import Cell
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store
from harness.tracking import accuracies
from harness.tracking.destination import destination
from harness.tracking.links import links as links_of
from harness.tracking.sync import sync

CHANGED = GRID[1]
NAMES = tuple(cell.columns["name"] for cell in NETWORKS)
SYNC = (
    "import sys; from pathlib import Path\n"
    "from harness.results.store import Store; from harness.tracking.sync import sync\n"
    "written = sync(Store(Path(sys.argv[1])), 'mini')\n"
)


def client(store: Store) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(destination(store).uri)


def runs(store: Store, kind: str = "network") -> dict[str, Any]:
    """Run name -> run; fails on doubles."""
    mlflow = client(store)
    experiments = [e.experiment_id for e in mlflow.search_experiments()]
    found = mlflow.search_runs(experiments, f'tags.kind = "{kind}"')
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def study_run(store: Store) -> Any:
    """The study's own run."""
    return runs(store, "study")["mini"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study with its runs in MLflow; making the database is the slow part."""
    store = filled(Store(tmp_path_factory.mktemp("results 100%")))
    seen: list[tuple[int, int]] = []
    assert sync(store, "mini", progress=lambda done, total: seen.append((done, total))) == 4
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    return store


def test_a_parameter_tells_networks_apart_and_all_have_it(store: Store) -> None:
    """MLflow draws an axis for each, and a missing number at a place of its own: 'none' has a place."""
    found = {name: run.data.params for name, run in runs(store).items()}
    none = dict.fromkeys(("k", "n", "training_attack", "training_epsilon"), "none")
    assert found == {
        "base": {**none, "method": "base"},
        "imperceptible_bound k=1 n=10": {**none, "method": "imperceptible_bound", "k": "1", "n": "10"},
        "imperceptible_bound k=2.5 n=10": {**none, "method": "imperceptible_bound", "k": "2.5", "n": "10"},
        "adversarial_images fgsm 8/255": {
            **none,
            "method": "adversarial_images",
            "training_attack": "fgsm",
            "training_epsilon": f"{8 / 255:.10g}",
        },
    }


def test_what_all_networks_of_a_method_have_is_a_tag(store: Store) -> None:
    found = {name: run.data.tags for name, run in runs(store).items()}
    shared = {
        "train/learning_rate": "0.001",
        "train/batch_size": "128",
        "architecture": "convnet",
        "seed": "0",
    }
    for name, tags in found.items():
        assert shared.items() <= tags.items()
        assert tags["name"] == name
    assert [tags["train/epochs"] for tags in (found["base"], found["imperceptible_bound k=1 n=10"])] == [
        "2",
        "1",
    ]
    sources = found["adversarial_images fgsm 8/255"]["train/sources"]
    assert json.loads(sources) == {"attack": "fgsm", "epsilon": 8 / 255}


def test_a_run_says_where_it_comes_from(store: Store) -> None:
    run = runs(store)["imperceptible_bound k=2.5 n=10"]
    made = ("mlflow.", "train/")
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith(made)}
    assert len(tags.pop("digest")) == 64
    assert tags.pop("owner") == store.identity()
    which = {"name": CHANGED.columns["name"], "architecture": "convnet", "seed": "0"}
    which |= {"cell": CHANGED.key, "results": CHANGED.path.as_posix(), "dataset": "mini-digits"}
    assert tags == {"study": "mini", "kind": "network", **which, "schema_version": str(SCHEMA_VERSION)}
    assert client(store).get_experiment(run.info.experiment_id).name == "mini-digits"
    assert run.info.status == "FINISHED"
    assert run.info.end_time == int((store.root / CHANGED.path).stat().st_mtime * 1000)
    assert run.info.end_time - run.info.start_time == 1000  # two rows of half a second


def test_accuracies_by_hand(store: Store) -> None:
    found = runs(store)
    black_box = {
        name: value
        for name, value in found["imperceptible_bound k=1 n=10"].data.metrics.items()
        if not name.startswith("train/")
    }
    # Image 0 falls to FGSM, image 1 to DeepFool: two of four withstand everything.
    assert black_box == {
        "acc/clean": 1.0,
        "black_box/fgsm_4_255": 0.75,
        "black_box/fgsm_8_255": 0.75,
        "black_box/deepfool": 0.75,
        "black_box/_worst": 0.5,
    }
    base = found["base"].data.metrics
    assert (base["acc/clean"], base["black_box/deepfool"], base["black_box/_worst"]) == (0.75, 0.5, 0.25)


def test_the_headline_has_the_white_box_in_it(store: Store) -> None:
    """Image 2 is wrong when clean; PGD of 2/255 breaks image 0, that of 8/255 image 1 as well."""
    found = {name: run.data.metrics for name, run in runs(store).items()}
    assert (found["base"]["acc/linf_2_255"], found["base"]["acc/linf_8_255"]) == (0.5, 0.25)
    # No other network was attacked itself.
    assert [name for name, metrics in found.items() if "acc/linf_8_255" in metrics] == ["base"]


def test_charts_of_the_white_box_have_no_step(store: Store) -> None:
    """MLflow's name for the axis of a curve: each epsilon and step size is a metric."""
    mlflow, run = client(store), runs(store)["base"]
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("white_box/")}
    weak, strong = (
        ("white_box/pgd_div_4_2_255", "white_box/pgd_div_10_2_255"),
        (
            "white_box/pgd_div_4_8_255",
            "white_box/pgd_div_10_8_255",
        ),
    )
    assert found == {**dict.fromkeys(weak, 0.5), **dict.fromkeys(strong, 0.25)}
    history = [point for name in found for point in mlflow.get_metric_history(run.info.run_id, name)]
    assert {point.step for point in history} == {0}


def test_a_white_box_of_a_part_of_the_images(tmp_path: Path) -> None:
    """PGD of 2/255 breaks the first of them; one of the first two withstands."""
    store = Store(tmp_path).open()
    (clean, *_), attacked = BLACK_BOX, WHITE_BOX[0]
    write(store, clean)
    store.write(attacked, {name: values[:2] for name, values in evaluation_rows(attacked).items()})
    cells = [(cell.path.as_posix(), store.metadata(cell.path.as_posix())) for cell in (clean, attacked)]
    found = accuracies.accuracies(store, cells, accuracies.names(cells))
    assert found == {"acc/clean": 0.75, "white_box/pgd_div_4": 0.5}


def test_curves(store: Store) -> None:
    mlflow, run = client(store), runs(store)["base"].info.run_id

    def curve(name: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in mlflow.get_metric_history(run, name))

    assert curve("train/clean_accuracy") == [(0, 0.1), (1, 0.75), (2, 1.0)]
    assert curve("train/images_per_s") == [(1, 100.0), (2, 200.0)]
    assert curve("train/loss") == [(1, 0.5)]  # neither the null before training nor the infinity after


def test_a_run_says_in_words_what_it_is_and_what_its_headline_covers(store: Store) -> None:
    said = {name: run.data.tags["mlflow.note.content"] for name, run in runs(store).items()}
    base, bound = said["base"], said["imperceptible_bound k=2.5 n=10"]
    assert base.startswith("**base** of study `mini` on mini-digits: the base network, trained on the clean")
    assert "**Robust at linf 2/255**: 50.0 [15.0, 85.0] % of 4 test images" in base
    assert "pgd" in base.partition("measured within the radius: ")[2].partition(".")[0]
    assert "the paper's defense" in bound
    assert "**Settings**: k 2.5, n 10, seed 0, epochs 1, batch size 128" in bound
    assert "None of them was made on this network itself, so it is no headline." in bound
    assert "**Checks**: not checked." in bound


def test_nothing_new_is_nothing_to_do(store: Store) -> None:
    """Without MLflow where the last sync left its mark, by comparing digests where it did not."""
    script = f"{SYNC}print(written, *(name in sys.modules for name in ('mlflow', 'matplotlib', 'torch')))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(store.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "False", "False", "False"]
    before = {run.info.run_id for run in runs(store).values()}
    (store.root / "studies" / ".mini.tracked").unlink()
    assert sync(store, "mini") == 0
    assert {run.info.run_id for run in runs(store).values()} == before


def test_only_the_run_whose_cells_changed_is_made_anew(store: Store) -> None:
    (removed,) = (
        cell
        for cell in BLACK_BOX
        if cell.columns["network"] == CHANGED.key and cell.columns["attack"] == "deepfool"
    )
    before = {name: run.info.run_id for name, run in runs(store).items()}
    (store.root / removed.path).unlink()
    assert sync(store, "mini") == 1
    after = runs(store)
    changed = [name for name in before if before[name] != after[name].info.run_id]
    assert changed == ["imperceptible_bound k=2.5 n=10"]
    # The worst case over fewer attacks than the others met would look better than it is.
    assert not {"black_box/_worst", "black_box/deepfool"} & set(
        after["imperceptible_bound k=2.5 n=10"].data.metrics
    )
    write(store, removed)
    assert sync(store, "mini") == 1
    assert runs(store)["imperceptible_bound k=2.5 n=10"].data.metrics["black_box/_worst"] == 0.5


def test_runs_cut_off_or_no_longer_in_the_study_go(store: Store) -> None:
    mlflow, complete = client(store), runs(store)["base"]
    half = mlflow.create_run(
        complete.info.experiment_id, tags=complete.data.tags, run_name="base"
    ).info.run_id
    (store.root / "studies" / ".mini.tracked").unlink()
    assert sync(store, "mini") == 0
    assert mlflow.get_run(half).info.lifecycle_stage == "deleted"
    record(store, [cell for cell in CELLS if cell is not CHANGED])
    assert sync(store, "mini") == 0
    assert "imperceptible_bound k=2.5 n=10" not in runs(store)
    record(store)
    assert sync(store, "mini") == 1


def test_what_a_check_says_is_told(store: Store) -> None:
    columns = {"network": CHANGED.key, "method": "imperceptible_bound", **CHANGED.columns}
    verdict = Cell("check", {"dataset": DATASET}, columns, {})
    said = {"check": "zero gradient", "verdict": "fail", "sentence": "gradients are zero", "images": 4}
    numbers = {"norm": None, "epsilon": None, "statistic": 1.0, "threshold": 0.01, "evidence": [10]}
    store.write(verdict, {name: [value] for name, value in (said | numbers).items()})
    record(store, [*CELLS, verdict])
    assert sync(store, "mini") == 1
    tags = runs(store)["imperceptible_bound k=2.5 n=10"].data.tags
    assert (tags["verdict"], tags["reason"]) == ("fail", "not measurable: gradients are zero")
    assert "verdict" not in runs(store)["base"].data.tags


def test_links_open_the_studys_runs(store: Store) -> None:
    found, links = runs(store), links_of(store, "mini", "http://host:1")
    experiment = found["base"].info.experiment_id
    page, _, query = urlsplit(links["charts"]).fragment.partition("?")
    assert page == f"/experiments/{experiment}/runs"
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "compareRunsMode": ["CHART"],
        "viewStateShareKey": ["mini"],
    }
    page, _, query = urlsplit(links["compare"]).fragment.partition("?")
    assert page == "/compare-runs"
    ids = [found[name].info.run_id for name in NAMES]
    assert json.loads(parse_qs(query)["runs"][0]) == ids
    assert json.loads(parse_qs(query)["experiments"][0]) == [experiment]
    assert (
        links["runs"]
        == f"http://host:1/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=mini"
    )
    view = json.loads(client(store).get_experiment(experiment).tags["mlflow.sharedViewState.mini"])
    assert view == {
        "searchFilter": 'tags.study = "mini" and tags.kind = "network"',
        "orderByKey": "metrics.`acc/linf_2_255`",
        "orderByAsc": False,
        "selectedColumns": [
            "metrics.`acc/clean`",
            "metrics.`acc/linf_2_255`",
            "metrics.`acc/linf_8_255`",
            "params.`k`",
            "params.`n`",
            "tags.`verdict`",
        ],
        "runsHiddenMode": "SHOWALL",
    }


def test_mistakes_are_told(store: Store) -> None:
    with pytest.raises(HarnessError, match="no study 'minii'.*did you mean 'mini'"):
        sync(store, "minii")
    with pytest.raises(HarnessError, match="has no runs in MLflow"):
        links_of(store, "other")


def test_a_deleted_database_is_rebuilt_by_two_at_once_without_a_word(store: Store) -> None:
    expected = {name: run.data for name, run in runs(store).items()}
    os.unlink(store.root / "mlflow.db")
    command = [sys.executable, "-c", f"{SYNC}print(written)", str(store.root)]
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
    assert sync(store, "mini") == 0
    os.unlink(store.root / "mlflow.db")
    assert sync(store, "mini") == 4
    assert len(runs(store)) == 4
    assert not list(store.root.glob(".mlflow.db*"))


def test_networks_of_several_seeds_and_of_a_method_that_no_one_knows(tmp_path: Path) -> None:
    """A run is called by the study's own name, with the seed; settings are shown whatever they are."""
    store = Store(tmp_path).open()
    settings = {"epsilon": 0.1, "inner": [1, 2], "start": None}
    cells = [
        training("base", "base", 1, {}, seed=0),
        training("base", "base", 1, {}, seed=1),
        bound_network(1.0, seed=1),
        training("mine epsilon=0.1", "mine", 1, settings, seed=1),
    ]
    record(store, cells)
    write(store, cells[1])
    assert sync(store, "mini") == 1
    assert set(runs(store)) == {"base"}
    for cell in cells:
        write(store, cell)
    assert sync(store, "mini") == 4  # the name of the one that was there is another now
    found = runs(store)
    assert set(found) == {
        "base (seed 0)",
        "base (seed 1)",
        "imperceptible_bound k=1 n=10 (seed 1)",
        "mine epsilon=0.1 (seed 1)",
    }
    data = found["mine epsilon=0.1 (seed 1)"].data
    assert (data.params["method"], data.params["seed"], data.params["k"]) == ("mine", "1", "none")
    assert (data.tags["train/epsilon"], data.tags["train/inner"]) == ("0.1", "[1, 2]")
    assert "train/start" not in data.tags
    assert "training goes on from the base network, by `mine`" in data.tags["mlflow.note.content"]
