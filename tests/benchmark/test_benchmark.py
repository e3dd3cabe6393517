"""The benchmark measures what it says: turns, scaling, ratios; and every case runs, at its smallest size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images
from torch import nn

from harness import benchmark
from harness.attacks.attack import perturb
from harness.attacks.gradient_sign import Pgd
from harness.benchmark import bound, grid, passes, peers
from harness.benchmark.timing import ALONE, QUALITIES, Case, Contender, measure
from harness.defenses.imperceptible_bound import ImperceptibleBound
from harness.errors import HarnessError
from harness.networks.build import build
from harness.networks.classifier import Classifier, as_input
from harness.networks.convnet import ConvNet
from harness.networks.objective import Inputs
from harness.networks.training import Training, TrainingSettings
from harness.report.database import connect, query
from harness.report.printing import render
from harness.report.tables import laid_out
from harness.results.cells import Cell
from harness.results.store import Store


def case(*contenders: Contender) -> Case:
    return Case("bound", "some work", "pairs", 1000, 1, "cpu", contenders)


def test_contenders_take_turns_and_the_first_turn_is_not_counted():
    calls: list[Any] = []

    def contender(name: str, **more: Any) -> Contender:
        def run(state: str) -> dict[str, float]:
            calls.append((name, state))
            return {}

        return Contender(name, run, 10, prepare=lambda: f"state of {name}", **more)

    a = contender("a")
    b = contender("b", warm_up=lambda: calls.append("warm"))
    c = Contender("c", None, 10, "no GPU")
    rows = measure(case(a, b, c), 2)
    ran_a, ran_b = ("a", "state of a"), ("b", "state of b")
    assert calls == [ran_a, "warm", ran_a, ran_b, ran_a, ran_b]
    turns = list(zip(rows["contender"], rows["turn"], strict=True))
    assert turns == [("a", 1), ("b", 1), ("c", None), ("a", 2), ("b", 2)]
    assert [seconds is None for seconds in rows["seconds"]] == [False, False, True, False, False]
    assert rows["note"][2] == "no GPU"


def test_a_run_may_tell_its_own_time():
    rows = measure(case(Contender("a", lambda _: {"seconds": 12.5, "fooled": 0.5}, 10)), 1)
    assert rows["seconds"] == [12.5]
    assert rows["fooled"] == [0.5]
    assert rows["l2"] == [None]


def test_a_contender_that_fails_ends_the_benchmark():
    def fail(_: Any) -> dict[str, float]:
        raise RuntimeError("out of luck")

    with pytest.raises(HarnessError, match="some work: a failed: RuntimeError: out of luck"):
        measure(case(Contender("a", fail, 10)), 1)


def write_turns(store: Store, when: str, seconds: dict[str, list[float]], measured: dict[str, int]) -> None:
    """Write the rows of one benchmark of ``case()``: seconds of each contender's turns, units it measured."""
    columns = {"case": "some work", "unit": "pairs", "amount": 1000, "threads": 1, "device": "cpu"}
    columns |= dict.fromkeys(("images", "values", "classes"))
    nothing = dict.fromkeys(("cpu_seconds", "note", *QUALITIES))
    rows: list[dict[str, Any]] = []
    for position, (name, turns) in enumerate(seconds.items()):
        same = {"measured_at": when, "position": position, "contender": name, "measured": measured[name]}
        rows += [
            {**nothing, **same, "turn": turn, "seconds": value} for turn, value in enumerate(turns, start=1)
        ]
    cell = Cell("benchmark", {"part": "bound"}, columns, {"when": when})
    store.write(cell, {name: [row[name] for row in rows] for name in rows[0]})


def test_speed_scales_to_the_case_and_compares_turn_by_turn(tmp_path: Path):
    store = Store(tmp_path).open()
    write_turns(store, "2026-01-01", {"harness": [99.0]}, {"harness": 1000})
    # The second turn found the machine twice as slow: the ratios are 10, 10, 40, and their median does not
    # care.
    seconds = {"harness": [1.0, 2.0, 1.0], "peer": [1.0, 2.0, 4.0]}
    write_turns(store, "2026-01-02", seconds, {"harness": 1000, "peer": 100})
    with connect(store) as connection:
        speed = query(connection, "select contender, seconds, per_s, spread, times_harness from speed")
        (table,) = laid_out(connection, ("speed",))
    ours, peer = speed.to_pylist()
    assert tuple(ours.values()) == ("harness", 1, 1000, 100, 1)
    assert tuple(peer.values()) == ("peer", 20, 50, 150, 10)
    assert table.header == ("case", "per s", "seconds", "spread %", "x harness")
    assert table.rows == [
        ("some work", "", "", "", ""),
        ("  harness", "1,000", "1", "100", "1"),
        ("  peer", "50", "20", "150", "10"),
    ]


def say_nothing(case: str, contender: str) -> None:
    pass


def test_unknown_parts_and_missing_data_are_told_before_work(tmp_path: Path):
    setting = benchmark.Setting(tmp_path, benchmark.FULL, 1, torch.device("cpu"))
    store = Store(tmp_path / "r")
    with pytest.raises(HarnessError, match="no part 'atacks'.*attacks"):
        benchmark.run(store, setting, ("atacks",), 1, False, say_nothing)
    with pytest.raises(HarnessError, match="needs MNIST/raw or CIFAR-10 in the data folder"):
        benchmark.run(store, setting, (), 1, False, say_nothing)
    assert not (tmp_path / "r").exists()


def test_a_network_is_asked_again_for_what_an_attack_asked():
    x, ids = torch.rand(5, 1, 4, 4), torch.arange(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    pgd = Pgd.model_validate({"method": "pgd", "epsilon": (0.1,), "steps": 7})
    calls = passes.recorded(network, lambda: perturb(network, x, torch.zeros(5).long(), ids, pgd, 0, 2))
    stepped = [call for call in calls if call.gradients]
    assert [call.images for call in stepped] == [2] * 7 + [2] * 7 + [1] * 7
    assert {call.gradients for call in stepped} == {1}
    assert passes.recorded(network, lambda: passes.replay(network, x, calls)) == calls
    twice = [passes.Pass(3, 2), passes.Pass(4)]
    assert passes.recorded(network, lambda: passes.replay(network, x, twice)) == twice
    assert all(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("name", peers.NEAREST)
def test_peers_of_the_bound_find_the_same_distances(name: str):
    rng = np.random.default_rng(0)
    queries, database = (rng.integers(0, 256, (count, 40)).astype(np.float32) for count in (7, 90))
    expected = np.abs(queries[:, None] - database[None]).sum(2).min(1)
    assert np.array_equal(np.rint(peers.NEAREST[name](queries, database, 1)), expected)


def test_the_plain_loop_trains_what_the_defense_trains():
    """One batch without noise: both take the same optimiser step."""
    some = images(0, 32, 3, (1, 8, 8))
    pixels, labels, ids = (torch.from_numpy(value) for value in (some.pixels, some.labels, some.ids))

    def network() -> Classifier:
        return build(ConvNet(width=4), some.pixels, 3, 7)

    f1 = build(ConvNet(width=4), some.pixels, 3, 8).eval()
    with torch.no_grad():
        teacher = f1(as_input(pixels)).log_softmax(1)
    objective = ImperceptibleBound(k=1.0, n=1).objective(
        Inputs(pixels, labels, ids, distance=torch.zeros(32), base_outputs=teacher), 0
    )
    settings = TrainingSettings(epochs=1, learning_rate=0.01, batch_size=32)
    run = Training(network(), objective, settings, 0, some)
    run.start()
    run.run_epoch()
    plain = network()
    peers.plain_defense(plain, f1, as_input(pixels), torch.zeros(32), 1, 32, 0.01)
    for ours, theirs in zip(run.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.ray
def test_every_case_runs_once(ray_session: None, tmp_path: Path):
    setting = benchmark.Setting(None, benchmark.SMOKE, 2, torch.device("cpu"))
    store = Store(tmp_path)
    measured = benchmark.run(store, setting, (), 1, False, say_nothing)
    with connect(store) as connection:
        rows = query(connection, "from speed").to_pylist()
        text = render(laid_out(connection, ("speed",)), "md")
    assert {row["part"] for row in rows} == set(benchmark.PARTS)
    assert len({(row["part"], row["case"]) for row in rows}) == measured
    assert all(row["note"] for row in rows if row["seconds"] is None)
    compared = [row for row in rows if row["part"] == "bound" or "FGSM" in row["case"]]
    agree = {row["contender"] for row in compared if row["agreement"] == 100}
    assert agree == {*peers.NEAREST, "FAISS L1, tiled", "Foolbox"}
    trainings = {row["contender"] for row in rows if row["part"] == "trainings"}
    assert trainings >= {ALONE, f"{ALONE}, bf16"}
    assert "  harness" in text
    # What is measured is not measured again, unless asked for.
    assert benchmark.run(store, setting, ("growth", "gpu"), 1, False, say_nothing) == 0
    assert benchmark.run(store, setting, ("gpu",), 1, True, say_nothing) == 3


# --- on a machine with a GPU --------------------------------------------------------------------------


def on_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> benchmark.Setting:
    """Eight cores and so many GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    return benchmark.Setting(None, benchmark.SMOKE, 8, torch.device("cuda"))


@pytest.mark.parametrize(("gpus", "measured"), [(1, False), (2, True)])
def test_a_training_over_two_workers_needs_two_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, measured: bool
):
    setting = on_gpus(monkeypatch, gpus)
    for cases in (grid.grid, grid.ddp):
        (contender,) = next(cases(setting)).contenders
        assert (contender.run is not None) is measured
        assert contender.note == "DDP over 2 workers" + ("" if measured else ": not on 1 GPU")


@pytest.mark.parametrize(("gpus", "workers"), [(1, [1]), (4, [4, 1])])
def test_the_bound_has_a_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int, workers: list[int]):
    case = next(bound.cases(on_gpus(monkeypatch, gpus)))
    ours = [contender.note for contender in case.contenders if contender.name.startswith("harness")]
    assert ours == [f"{count} Ray worker{'s' if count > 1 else ''}" for count in workers]
    assert case.device == "cuda NVIDIA H100 80GB HBM3"
    others = [contender for contender in case.contenders if not contender.name.startswith("harness")]
    assert others and all(contender.note.endswith(", on the CPU") for contender in others)


def test_the_growth_of_the_filter_is_the_cpus(monkeypatch: pytest.MonkeyPatch):
    assert next(bound.growth(on_gpus(monkeypatch, 1))).device.startswith("cpu ")


class Elsewhere:
    """Images on another device, as ART meets them: numpy can't read them there."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values, self.shape, self.device = values, values.shape, torch.device("meta")

    def __getitem__(self, part: Any) -> torch.Tensor:
        return self._values[part]

    def cpu(self) -> torch.Tensor:
        return self._values

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(("device", "kind"), [("meta", "gpu"), ("cpu", "cpu")])
def test_art_takes_the_network_where_it_is(monkeypatch: pytest.MonkeyPatch, device: str, kind: str):
    pytest.importorskip("art", reason="ART is not installed: pip install 'harness[reference]'")
    from art.attacks import evasion
    from art.estimators import classification

    given: list[Any] = []

    class Attack:
        def __init__(self, model: Any, verbose: bool) -> None:
            given.append(model)

        def generate(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
            return 1 - x

    monkeypatch.setattr(classification, "PyTorchClassifier", lambda *_, device_type, **__: device_type)
    monkeypatch.setattr(evasion, "SaliencyMapMethod", Attack)
    some = images(0, 6, 3, (1, 8, 8))
    values, labels = as_input(torch.from_numpy(some.pixels)), torch.from_numpy(some.labels)
    network = build(ConvNet(width=4), some.pixels, 3, 7).eval()
    x: Any = values if device == "cpu" else Elsewhere(values)
    (made,) = peers.art_jsma(network, x, labels, labels, ())
    assert given == [kind] and made.device.type == device


def test_both_kinds_of_batches_hold_every_image_as_often():
    x, sigma = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10.0)
    for batches in (peers._loaded, peers._indexed):
        drawn = list(batches(x, sigma, 3, 8))
        assert [len(part) for part, _ in drawn] == [8, 8, 8, 6]
        order = torch.cat([part.flatten() for part, _ in drawn])
        assert torch.equal(order, torch.cat([s for _, s in drawn]))
        assert torch.equal(order.sort()[0], torch.arange(10.0).repeat_interleave(3))
        assert not torch.equal(order, order.sort()[0])
