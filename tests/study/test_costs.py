"""The price of a study against what can be counted: forward passes, files, cells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import attack_cases
import pytest
import torch
from attack_cases import FROM_OUTSIDE
from conftest import run_study
from tiny_sources import write_zip
from torch import Tensor, nn

from harness.attacks import ATTACKS
from harness.attacks.attack import perturb
from harness.cli.planning import on_gpus, table
from harness.neighbours.growth import BoundModel, Curve
from harness.networks.counted import flops, launches
from harness.pipeline.run import price
from harness.study import costs, rates
from harness.study.plan import plan
from harness.study.rates import Rate, Rates, StartUp
from harness.study.reading import build

MODEL = BoundModel(0.0, 1e-9, 1e-9, 0.0, 1e-9, {"any": Curve(64, 1.0, 0.5)}, 0.0)
STARTS = StartUp(cluster_s=5.0, workers_s=1.0, sweep_s=2.0, cell_s=0.25, closing_s=7.0)
RATES = Rates({"float32": Rate(1 / 100)}, {"float32": Rate(1 / 10)}, Rate(1 / 1000), "invented", STARTS)


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


def test_extent_of_a_copy_with_smaller_images(tiny: dict[str, Any], tmp_path: Path):
    write_zip(tmp_path)
    study = build({**tiny, "dataset": {"source": "tinyimagenet", "classes": 40}})
    assert costs.extent(study, tmp_path) == costs.Extent(20_000, 2_000, (3, 4, 4), 40)


def test_a_study_costs_what_its_run_leaves(tiny: dict[str, Any], tmp_path: Path):
    run = run_study(tiny, tmp_path)
    size = costs.extent(run.study, None)
    prices = {step.step: step for step in price(costs.Quote(plan(run.study, "", None), size, RATES, MODEL))}
    assert sum(step.cells for step in prices.values()) == len(list(tmp_path.rglob("*.parquet")))

    def left(table: str) -> int:
        folders = (tmp_path / table, tmp_path / "tensors" / table)
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.*"))

    of_images = {table: left(table) for table in ("bound", "classes", "sample")}
    assert prices["bound"].bytes == pytest.approx(sum(of_images.values()), rel=0.2), of_images
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
    printed = table(list(prices.values()), 2, RATES)
    assert [row[0] for row in printed.rows][-2:] == ["start and end", "all"]
    assert "invented" in printed.note
    elsewhere = on_gpus(list(prices.values()), "H100", RATES)
    assert [row[0] for row in elsewhere.rows] == [*prices, "start and end", "all"]


def test_a_step_waits_for_its_longest_task_its_driver_and_its_start():
    price = costs.Price("attack", cells=4, seconds=40.0, longest=15.0, bytes=0, starts_s=2.0, cell_s=0.5)
    assert [price.on(workers) for workers in (1, 2, 8)] == [42.0, 22.0, 17.0]
    assert replace(price, longest=1.0).on(64) == 2.0 + 4 * 0.5
    assert replace(price, cells=0).on(1) == 0.0
    assert costs.whole([price, price], STARTS, 8) == 5.0 + 2 * 17.0 + 7.0


def test_ranks_share_out_a_training_and_threads_take_cores(tiny: dict[str, Any]):
    def priced(**base: int) -> costs.Price:
        study = build({**tiny, "base": {**tiny["base"], **base}})
        quote = costs.Quote(plan(study, "", None), costs.extent(study, None), RATES, MODEL)
        return next(each for each in price(quote) if each.step == "base-network")

    alone, ranks, threads = priced(), priced(workers=2), priced(threads=2)
    assert (ranks.seconds, ranks.longest) == pytest.approx((alone.seconds, alone.seconds / 2))
    assert (threads.seconds, threads.longest) == pytest.approx((2 * alone.seconds, alone.seconds))


def test_rates_of_an_assumed_machine(tiny: dict[str, Any]):
    study = build(tiny)
    slow, fast = (rates.assumed(study, costs.extent(study, None), tflops) for tflops in (2.0, 4.0))
    trained, gradient, forward = slow.trained["float32"], slow.gradients["float32"], slow.forwards
    # The first layer takes no gradient to the image in a training, and none to its weights in an attack.
    assert 2.5 * forward.image_s < trained.image_s <= 3 * forward.image_s
    assert gradient.image_s == pytest.approx(2 * forward.image_s)
    assert fast.trained["float32"].image_s == pytest.approx(trained.image_s / 2)


def test_what_a_gpu_is_asked_for_is_counted(tiny: dict[str, Any]):
    """Seconds follow from launches for a small network, from FLOP for a large one."""
    small, large = build(tiny), build({**tiny, "network": {"architecture": "vgg16"}, "batch_size": 512})
    size = costs.extent(small, None)
    for study, is_small in ((small, True), (large, False)):
        of_one = rates.on_gpu(study, size, "H100").gradients["float32"]
        computing, asking = of_one.image_s * 100, of_one.host_s * 100 / of_one.batch
        assert (asking > computing) == is_small
        assert of_one.seconds(100) == pytest.approx(max(asking, computing))
        network, x = rates.untrained(study, size).eval().requires_grad_(False), torch.rand(2, *size.shape)
        x.requires_grad_()
        counted = launches(lambda: torch.autograd.grad(network(x).logsumexp(1).sum(), x))  # noqa: B023
        assert of_one.host_s == pytest.approx(5e-6 * counted)
    replayed = build({**tiny, "compute": {"cuda_graphs": True}})
    of_steps = [rates.on_gpu(study, size, "H100").trained["float32"].host_s for study in (small, replayed)]
    assert of_steps[0] > 20 * of_steps[1]


def test_operations_are_counted():
    layer, x = nn.Linear(8, 4), torch.rand(2, 8)
    assert launches(lambda: layer(x).relu().view(8)) == 2
    assert flops(lambda: layer(x)) == 2 * 2 * 8 * 4


def test_an_attack_asks_for_more_than_its_network():
    size = costs.Extent(10, 10, (1, 4, 4), 3)
    own = {
        name: rates._own_launches(ATTACKS[name].model_validate(attack_cases.shortest(name)), size)
        for name in ATTACKS.keys() - FROM_OUTSIDE
    }
    assert min(own.values()) > 0
    assert own["cw_l2"] > own["pgd"] > 3


def test_rates_are_measured(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "_CALIBRATION_S", 0.0)
    study = build({**tiny, "white_box": {**tiny["white_box"], "gradients": "bfloat16"}})
    here = rates.measured(study, costs.extent(study, None))
    assert {*here.gradients} == {"float32", "bfloat16"} and {*here.trained} == {"float32"}
    each = (*here.trained.values(), *here.gradients.values(), here.forwards)
    assert min(rate.image_s for rate in each) > 0
    assert here.source.startswith("measured on")
