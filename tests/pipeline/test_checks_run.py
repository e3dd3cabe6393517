"""The checks of a study: a network that fails has no rank; its verdicts are made again from their cells."""

from pathlib import Path
from typing import Any

import pytest
from conftest import run_study, snapshot, tiny_study
from safetensors.numpy import save_file

from harness.pipeline.recompute import recompute
from harness.report.database import connect, query


def _study(**changes: Any) -> dict[str, Any]:
    tiny = tiny_study()
    base = {**tiny["base"], "epochs": 12}
    return {**tiny, "defenses": {}, "base": base, "checks": {"images": 30}, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The base network, and a finished model of its weights whose logits are 1,000 times as large."""
    folder = tmp_path_factory.mktemp("checks")
    trained = run_study(_study(checks={"enabled": False}), folder / "base")
    (base,) = trained.plan.bases
    weights = dict(trained.store.tensors(base.cell))
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
    weights |= {name: 1000 * weights[name] for name in (f"body.{last}.weight", f"body.{last}.bias")}
    save_file(weights, folder / "loud.safetensors")
    model = {"architecture": "convnet", "width": 4, "weights": str(folder / "loud.safetensors")}
    return run_study(_study(models={"loud": model}), folder / "results")


def _asked(run: Any, sql: str) -> list[dict[str, Any]]:
    with connect(run.store) as connection:
        rows: list[dict[str, Any]] = query(connection, sql).to_pylist()
    return rows


def test_a_network_that_fails_has_no_rank(finished: Any) -> None:
    assert not finished.failed
    verdicts = {row["name"]: row for row in _asked(finished, "from verdicts")}
    assert verdicts["loud"]["verdict"] == "fail" and verdicts["base"]["verdict"] in ("pass", "warn")
    assert verdicts["loud"]["reason"].startswith("not measurable: ")
    ranks = {row["name"]: row["rank"] for row in _asked(finished, "from ranking")}
    assert ranks == {"base": 1, "loud": None}
    zero = "select name, verdict, statistic from check_results where \"check\" = 'zero gradient'"
    assert {row["name"]: row["verdict"] for row in _asked(finished, zero)} == {"base": "pass", "loud": "fail"}


def test_its_white_box_reads_higher_than_that_of_the_same_network(finished: Any) -> None:
    """Predictions are those of the base network, image by image: only the gradients are not."""
    clean = (
        "select name, count(*) filter (prediction = label) as right from evaluation where access = 'clean'"
    )
    counts = {row["name"]: row["right"] for row in _asked(finished, f"{clean} group by name")}
    assert counts["base"] == counts["loud"]
    attacked = {
        row["name"]: row["accuracy"] for row in _asked(finished, "from white_box where attack = 'pgd'")
    }
    assert attacked["loud"] > attacked["base"]


def test_images_are_seen_to_be_valid(finished: Any) -> None:
    rows = _asked(finished, "from check_results where \"check\" = 'validity'")
    assert {(row["name"], row["verdict"], row["statistic"]) for row in rows} == {
        ("base", "pass", 0.0),
        ("loud", "pass", 0.0),
    }
    # Of the base network: FGSM at two radii, DeepFool, and the white box's PGD; of the model PGD alone.
    assert {row["name"]: row["images"] for row in rows} == {"base": 4 * 40, "loud": 40}


def test_verdicts_are_made_again_equal(finished: Any) -> None:
    findings = list(recompute(finished.store, 100, 0, None, 0))
    assert [finding.title for finding in findings if finding.differences] == []
    assert sum("checks of" in finding.title for finding in findings) == 2


@pytest.mark.ray
def test_workers_change_no_verdict(finished: Any, tmp_path: Path, ray_session: None) -> None:
    study = finished.study.model_dump(mode="json") | {"compute": {"workers": 2}}
    run_study(study, tmp_path)
    assert snapshot(tmp_path) == snapshot(finished.store.local_root)
