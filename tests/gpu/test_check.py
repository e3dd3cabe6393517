"""The first half hour's order, run on the CPU at small sizes; a failure stops it; what compares can fail."""

import sys
import zipfile

import check
import numpy as np
import pytest
import same
import torch
from attack_cases import FROM_OUTSIDE, like

from harness.attacks import ATTACKS
from harness.attacks.gradient_sign import Fgsm
from harness.networks import ConvNet
from harness.networks.build import build
from harness.networks.classifier import to_tensors

FGSM = Fgsm(method="fgsm", epsilon=(0.3,))


@pytest.fixture(autouse=True)
def _one_thread(_threads):
    torch.set_num_threads(1)


@pytest.fixture
def setting(tmp_path):
    return check.Setting(same.CPU, check.SHORT, tmp_path)


def test_the_whole_order_runs_on_a_cpu(tmp_path, capsys):
    out = tmp_path / "kept.md"
    assert check.main(["--device", "cpu", "--short", "--out", str(out)]) == 0
    printed, kept = capsys.readouterr().out, out.read_text()
    begun = [line.removeprefix("-- ") for line in printed.splitlines() if line.startswith("-- ")]
    assert begun == list(check.STAGES)
    assert "| what | value | floor |" in printed and printed.count(check.NO_GPU) > 4
    assert "| GPU | not run: no GPU |  |" in kept and "rows are right" in kept
    assert "cores: " in kept and "aten::" in kept  # the machine, the profile


def test_a_failure_stops_it(setting, monkeypatch, tmp_path, capsys):
    """The rows before it are kept, what would come after it is not begun, and the exit code says so."""

    def planted(device):
        raise AssertionError("float32 products are off by 3.0e-04: TF32?")

    monkeypatch.setattr(same, "full_float32", planted)
    out = tmp_path / "kept.md"
    assert check.main(["--device", "cpu", "--short", "--out", str(out)]) == 1
    printed, kept = capsys.readouterr().out, out.read_text()
    assert "-- draws" in printed and "-- attacks" not in printed
    assert "normal draws" in kept and "TF32?" in kept and "Traceback" in kept
    assert "stopped at 'draws, float32, neighbours'" in kept


def test_a_value_below_its_floor_stops_it(setting):
    def slow(_):
        yield check.Row("speed", "3", "10", is_right=False)
        raise AssertionError("went on")

    said = []
    rows = check.run(setting, said.append, {"slow": slow, "never": slow})
    assert [row.what for row in rows] == ["speed"]
    assert said == ["-- slow", "   speed: 3 (floor 10)  <- NOT RIGHT"]
    assert "| speed | **3** | 10 |" in check.table(rows)
    assert "stopped at 'speed'" in check.outcome(rows, 1.0)


def test_floors_are_of_known_gpus(setting, monkeypatch):
    setting.sizes, setting.device = check.FULL, torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert not check._speed("PGD", 10.0, 150, setting).is_right
    assert check._speed("PGD", 200.0, 150, setting).is_right
    assert not check._share("defense", 0.05, 0.08, setting).is_right
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce 123")
    assert check._speed("PGD", 10.0, 150, setting) == check.Row("PGD", "10.0")
    assert check._share("defense", None, 0.08, setting).value == "not known of this GPU"


def test_wheels_fill_what_is_lacking(tmp_path, monkeypatch):
    """One that is installed already is left alone, whatever its version."""
    folder, into = tmp_path / "wheels", tmp_path / "into"
    folder.mkdir()
    for name in ("numpy", "no_such_thing"):
        info = f"{name}-9.0.dist-info"
        with zipfile.ZipFile(folder / f"{name}-9.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "here = True")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "first")
    check.take_wheels(folder, into)
    import no_such_thing

    assert no_such_thing.here and sorted(path.name for path in into.iterdir() if path.is_dir()) == [
        "no_such_thing",
        "no_such_thing-9.0.dist-info",
    ]
    with pytest.raises(SystemExit, match="no wheels in"):
        check.take_wheels(tmp_path, into)


# --- what compares can fail ---------------------------------------------------------------------------


def test_all_attacks_are_compared():
    methods = {settings.method for settings in same.attack_settings().values()}
    libraries = {"foolbox", "art", "torchattacks"}  # those that are installed are among them
    assert methods | libraries == ATTACKS.keys() - FROM_OUTSIDE


def altered(tensors, by):
    rng = np.random.default_rng(0)
    return {
        name: value + by * np.abs(value).max() * rng.standard_normal(value.shape).astype(np.float32)
        for name, value in tensors.items()
        if value.dtype == np.float32
    } | {name: value for name, value in tensors.items() if value.dtype != np.float32}


def on_another_device(monkeypatch, by):
    """The network has other weights wherever it is for the second time: what a device does wrong."""
    whole, calls = same.Target.on, []

    def on(self, device):
        calls.append(device)
        tensors = self.tensors if len(calls) % 2 else altered(self.tensors, by)
        return whole(same.Target(self.architecture, self.train, self.test, tensors, 1.0), device)

    monkeypatch.setattr(same.Target, "on", on)


def test_attacks_that_find_other_images_are_told(monkeypatch):
    assert same.attack(FGSM, same.CPU).fooled > 0.5
    smallest = next(each for each in same.attack_settings().values() if each.method == "deepfool")
    on_another_device(monkeypatch, 0.3)
    for settings in (like(FGSM, epsilon=(0.05,)), smallest):
        with pytest.raises(AssertionError, match="equal on|l2 within|too few"):
            same.attack(settings, same.CPU)
    with pytest.raises(AssertionError, match="logits or gradients differ"):
        same.gradients(same.CPU, same.small(), 8)


def test_an_untrained_network_is_no_target():
    """It says one class of all images, and no attack of this radius changes that."""
    trained = same.small()
    network = build(ConvNet(width=8), trained.train.pixels, 10, 0)
    target = same.Target(trained.architecture, trained.train, trained.test, to_tensors(network), 0.1)
    with pytest.raises(AssertionError, match="too few to compare"):
        same.attack(like(FGSM, epsilon=(0.005,)), same.CPU, target)


def test_certificates_of_another_network_are_told(monkeypatch):
    on_another_device(monkeypatch, 0.3)
    with pytest.raises(AssertionError, match="certified classes|counts of draws"):
        same.certificates(same.CPU, count=6, draws=100)


def test_trainings_that_differ_are_told(monkeypatch):
    whole, calls = same.training, []

    def drifting(objective, precision, on, epochs=2):
        made = whole(objective, precision, on, epochs)
        calls.append(made)
        if len(calls) == 2:  # the device's, or the second of two alike
            made.rows[-1]["loss"] *= 1.01
        return made

    monkeypatch.setattr(same, "training", drifting)
    with pytest.raises(AssertionError, match="losses"):
        same.losses("supervised", "float32", same.CPU)
    calls.clear()
    with pytest.raises(AssertionError, match="the same training twice differs"):
        same.repeats("supervised", "float32", same.CPU)


def test_draws_that_differ_are_told(monkeypatch):
    whole = same.seeds._words
    calls = []

    def wrong(*arguments):
        calls.append(arguments)
        return tuple(word + (len(calls) == 2) for word in whole(*arguments))

    monkeypatch.setattr(same.seeds, "_words", wrong)
    with pytest.raises(AssertionError, match="random words differ"):
        same.words(same.CPU)


@pytest.mark.ray
def test_over_ray(ray_session, tmp_path):
    import over_ray

    assert over_ray.gang_of_one(tmp_path) == "gloo"
