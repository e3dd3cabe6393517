"""The price of a study against what can be counted: forward passes, files, cells."""

from pathlib import Path
from typing import Any

import attack_cases
import pytest
import torch
from attack_cases import FROM_OUTSIDE
from conftest import run_study
from torch import Tensor, nn

from harness.attacks import ATTACKS
from harness.attacks.attack import perturb
from harness.cli.planning import table
from harness.neighbours.growth import BoundModel, Curve
from harness.pipeline.run import price
from harness.study import costs
from harness.study.plan import plan
from harness.study.reading import build

MODEL = BoundModel(0.0, 1e-9, 1e-9, 0.0, 1e-9, {"any": Curve(64, 1.0, 0.5)}, 0.0)
RATES = costs.Rates(100.0, 10.0, 1000.0, "invented")


class Counting(nn.Module):
    """A linear network that counts the images it sees with gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 3)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x) if x.requires_grad else 0
        logits: Tensor = self.linear(x.flatten(1))
        return logits


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "fgsm", "epsilon": (0.1, 0.2, 0.3)},
        {"method": "pgd", "epsilon": (0.001, 0.002), "steps": 7},
        {"method": "ddn", "steps": 11},
    ],
    ids=lambda settings: settings["method"],
)
def test_gradients_of_an_attack_are_those_it_takes(settings: dict[str, Any]):
    network, built = Counting().eval(), ATTACKS[settings["method"]].model_validate(settings)
    x = torch.rand(4, 1, 4, 4)
    perturb(network, x, network(x).argmax(1), torch.arange(4), built, 0)
    assert network.seen == 4 * built.cost(3, 16)


def test_every_method_has_a_price():
    for name in ATTACKS.keys() - FROM_OUTSIDE:
        settings = ATTACKS[name].model_validate(attack_cases.shortest(name))
        assert settings.cost(10, 784) > 0


@pytest.mark.parametrize(
    ("source", "limits", "expected"),
    [
        ("mnist", {}, costs.Extent(60_000, 10_000, (1, 28, 28), 10)),
        ("cifar10", {"train_limit": 500}, costs.Extent(500, 10_000, (3, 32, 32), 10)),
        ("tinyimagenet", {"classes": 40}, costs.Extent(20_000, 2_000, (3, 64, 64), 40)),
        ("digits", {"train_limit": 120, "test_limit": 40}, costs.Extent(120, 40, (1, 8, 8), 10)),
    ],
)
def test_extent(tiny: dict[str, Any], source: str, limits: dict[str, int], expected: costs.Extent):
    assert costs.extent(build({**tiny, "dataset": {"source": source, **limits}}), None) == expected


def test_a_study_costs_what_its_run_leaves(tiny: dict[str, Any], tmp_path: Path):
    run = run_study(tiny, tmp_path)
    size = costs.extent(run.study, None)
    prices = {step.step: step for step in price(costs.Quote(plan(run.study, "", None), size, RATES, MODEL))}
    assert sum(step.cells for step in prices.values()) == len(list(tmp_path.rglob("*.parquet")))

    def left(table: str) -> int:
        folders = (tmp_path / table, tmp_path / "tensors" / table)
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.*"))

    assert prices["bound"].bytes == pytest.approx(left("bound"), rel=0.2)
    assert prices["attack"].bytes == pytest.approx(left("attack"), rel=0.2)
    assert prices["black-box"].bytes + prices["white-box"].bytes == pytest.approx(left("evaluation"), rel=0.2)
    assert sum(prices[step].bytes for step in ("base-network", "defense", "baselines")) == pytest.approx(
        left("training"), rel=0.2
    )


def test_seconds_follow_from_the_rates(tiny: dict[str, Any]):
    study = build(tiny)
    size = costs.extent(study, None)
    prices = {step.step: step for step in price(costs.Quote(plan(study, "", None), size, RATES, MODEL))}
    assert prices["base-network"].seconds == pytest.approx(3 * (120 / 100 + 40 / 1000))
    assert prices["defense"].seconds == pytest.approx(2 * (2 * 120 / 100 + 40 / 1000))
    assert prices["baselines"].seconds == pytest.approx(2 * 120 / 100 + 40 / 1000)
    assert prices["white-box"].seconds == pytest.approx(4 * 40 * 3 / 10)
    printed = table(list(prices.values()), 2, RATES.source)
    assert [row[0] for row in printed.rows][-1] == "all"
    assert "invented" in printed.note


def test_rates_of_an_assumed_machine(tiny: dict[str, Any]):
    study = build(tiny)
    rates = costs.assumed_rates(study, costs.extent(study, None), 2.0)
    assert rates.forwards == pytest.approx(3 * rates.trained)
    assert rates.gradients == pytest.approx(1.5 * rates.trained)
    assert costs.assumed_rates(study, costs.extent(study, None), 4.0).trained == pytest.approx(
        2 * rates.trained
    )


def test_rates_are_measured(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(costs, "_CALIBRATION_S", 0.0)
    study = build(tiny)
    rates = costs.measured_rates(study, costs.extent(study, None))
    assert min(rates.trained, rates.gradients, rates.forwards) > 0
    assert rates.source.startswith("measured on")
