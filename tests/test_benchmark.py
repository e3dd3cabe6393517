"""The benchmark measures what it says: turns, scaling, ratios; and every case runs, at its smallest size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images

from harness import benchmark, defense, networks, report, spec, training, views
from harness.benchmark import peers
from harness.benchmark.timing import Case, Contender, measure
from harness.cells import Cell
from harness.errors import HarnessError
from harness.store import Store


def case(*contenders: Contender) -> Case:
    return Case("bound", "some work", "pairs", 1000, 1, "cpu", contenders)


def test_contenders_take_turns_and_the_first_turn_is_not_counted():
    calls: list[Any] = []

    def contender(name: str, **more: Any) -> Contender:
        return Contender(
            name,
            lambda state: calls.append((name, state)) or {},
            10,
            prepare=lambda: f"state of {name}",
            **more,
        )

    rows = measure(
        case(
            contender("a"),
            contender("b", warm_up=lambda: calls.append("warm")),
            Contender("c", None, 10, "no GPU"),
        ),
        2,
    )
    a, b = ("a", "state of a"), ("b", "state of b")
    assert calls == [a, "warm", a, b, a, b]
    assert list(zip(rows["contender"], rows["turn"], strict=True)) == [
        ("a", 1),
        ("b", 1),
        ("c", None),
        ("a", 2),
        ("b", 2),
    ]
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


def written(store: Store, when: str, seconds: dict[str, list[float]], measured: dict[str, int]) -> None:
    columns = {"case": "some work", "unit": "pairs", "amount": 1000, "threads": 1, "device": "cpu"}
    columns |= dict.fromkeys(("images", "values", "classes"))
    rows: list[dict[str, Any]] = [
        {
            "measured_at": when,
            "position": place,
            "contender": name,
            "turn": turn + 1,
            "seconds": value,
            "measured": measured[name],
        }
        for place, (name, turns) in enumerate(seconds.items())
        for turn, value in enumerate(turns)
    ]
    others = dict.fromkeys(
        ("cpu_seconds", "agreement", "fooled", "l2", "accuracy", "candidates", "overhead_s", "note")
    )
    store.write(
        Cell("benchmark", {"part": "bound"}, columns, {"when": when}),
        {n: [{**others, **r}[n] for r in rows] for n in [*rows[0], *others]},
    )


def test_speed_scales_to_the_case_and_compares_turn_by_turn(tmp_path: Path):
    store = Store(tmp_path).open()
    written(store, "2026-01-01", {"harness": [99.0]}, {"harness": 1000})
    # The second turn found the machine twice as slow: the ratios are 10, 10, 40, and their median does not care.
    written(
        store,
        "2026-01-02",
        {"harness": [1.0, 2.0, 1.0], "peer": [1.0, 2.0, 4.0]},
        {"harness": 1000, "peer": 100},
    )
    ours, peer = views.query(views.connect(store), "from speed").to_pylist()
    assert (ours["contender"], ours["seconds"], ours["per_s"], ours["spread"], ours["times_harness"]) == (
        "harness",
        1,
        1000,
        100,
        1,
    )
    assert (peer["contender"], peer["seconds"], peer["per_s"], peer["times_harness"]) == ("peer", 20, 50, 10)
    (table,) = report.benchmark(views.connect(store))
    assert table.header == ("case", "per s", "seconds", "spread %", "x harness")
    assert table.rows == [
        ("some work", "", "", "", ""),
        ("  harness", "1,000", "1", "100", "1"),
        ("  peer", "50", "20", "150", "10"),
    ]


def test_unknown_parts_and_missing_data_are_told_before_work(tmp_path: Path):
    setting = benchmark.Setting(tmp_path, benchmark.FULL, 1, torch.device("cpu"))
    with pytest.raises(HarnessError, match="no part 'atacks'.*attacks"):
        benchmark.run(Store(tmp_path / "r"), setting, ("atacks",), 1, False, lambda case, name: None)
    with pytest.raises(HarnessError, match="needs MNIST/raw or CIFAR-10 in the data folder"):
        benchmark.run(Store(tmp_path / "r"), setting, (), 1, False, lambda case, name: None)
    assert not (tmp_path / "r").exists()


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

    def network() -> networks.Classifier:
        return networks.build(spec.NetworkSpec(architecture="convnet", width=4), some.pixels, 3, 7)

    f1 = networks.build(spec.NetworkSpec(architecture="convnet", width=4), some.pixels, 3, 8).eval()
    with torch.no_grad():
        teacher = f1(networks.as_input(pixels)).log_softmax(1)
    objective = defense.objective(
        training.Inputs(pixels, labels, ids, torch.zeros(32), teacher),
        {"k": 1.0, "n": 1, "redraw": False, "seed": 0},
    )
    settings = spec.TrainingSpec(epochs=1, learning_rate=0.01, batch_size=32)
    run = training.Training(network(), objective, settings, 0, some)
    run.start()
    run.run_epoch()
    plain = network()
    peers.plain_defense(plain, f1, networks.as_input(pixels), torch.zeros(32), 1, 32, 0.01)
    for ours, theirs in zip(run.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.ray
def test_every_case_runs_once(ray_session: None, tmp_path: Path):
    setting = benchmark.Setting(None, benchmark.SMOKE, 2, torch.device("cpu"))
    store = Store(tmp_path)
    made = benchmark.run(store, setting, (), 1, False, lambda case, name: None)
    connection = views.connect(store)
    rows = views.query(connection, "from speed").to_pylist()
    assert {row["part"] for row in rows} == set(benchmark.PARTS)
    assert len({(row["part"], row["case"]) for row in rows}) == made
    assert all(row["note"] for row in rows if row["seconds"] is None)
    agreement = {
        row["contender"]: row["agreement"] for row in rows if row["part"] == "bound" or "FGSM" in row["case"]
    }
    assert {name for name, share in agreement.items() if share == 100} == {
        *peers.NEAREST,
        "FAISS L1, tiled",
        "Foolbox",
    }
    assert "  harness" in report.render(report.benchmark(connection), "md")
    # What is measured is not measured again, unless asked for.
    assert benchmark.run(store, setting, ("growth", "gpu"), 1, False, lambda case, name: None) == 0
    assert benchmark.run(store, setting, ("gpu",), 1, True, lambda case, name: None) == 3
