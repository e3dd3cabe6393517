"""The first half hour on a GPU machine, in order, stopping at the first failure: ``make gpu-check``.

Without a network, ``python tests/gpu/check.py --wheels FOLDER`` takes what this Python lacks from a folder
of wheels; what it has (a torch of its own) stays. ``--device cpu --short`` runs the order on small sizes. At
the end a table (what, value, floor), and a file to keep with it and a profile. Exits with 1 after a failure.

Floors are what would show that something is wrong, not what is hoped for: a third or less of what was
reckoned for an H100 (docs/gpu.md). Of a GPU whose peak is not known only what must be equal is judged.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
NO_GPU = "not run: no GPU"
NOT_INSTALLED = "not installed"
_DRIVER_FLOOR = 580  # of CUDA 13, which torch's wheels are built for


@dataclass(frozen=True)
class Row:
    """A line of the table. ``floor``: the least that is right, empty where there is none."""

    what: str
    value: str
    floor: str = ""
    is_right: bool = True


@dataclass(frozen=True)
class Sizes:
    """How much is done: all of it on a GPU, or as little as runs every line."""

    attacks: tuple[str, ...] | None  # methods that are compared; None: all
    images: int  # that each of them attacks
    objectives: tuple[str, ...] | None
    batches: tuple[int, ...]  # of the defense's training
    steps: int  # of each
    fast: int  # images of the attacks whose speed is measured
    slow: int
    neighbours: int  # images of the bound, all pairs


FULL = Sizes(None, 32, None, (128, 512, 1024), 200, 2_048, 256, 50_000)
SHORT = Sizes(("fgsm", "pgd"), 8, ("imperceptible_bound",), (8, 16), 2, 8, 2, 200)


@dataclass
class Setting:
    """The device and sizes of a run, and what its stages keep for each other."""

    device: Any  # torch.device
    sizes: Sizes
    folder: Path
    notes: list[str] = field(default_factory=list)  # for the file
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def is_short(self) -> bool:
        return self.sizes is SHORT


# --- stages: each yields its rows as they are measured; an exception is a failure ---------------------


def versions(setting: Setting) -> Iterator[Row]:
    """What is installed, and that torch sees the GPU."""
    import torch

    from harness import nvidia
    from harness.networks.device import cuda_versions, device, device_name

    yield Row("Python", platform.python_version(), "3.11")
    for name in ("torch", "numpy", "faiss-gpu", "faiss-cpu", "foolbox", "ray"):
        yield Row(name, _version(name))
    if not setting.on_gpu:
        yield Row("GPU", NO_GPU)
        return
    driver = nvidia.driver()
    if driver is None:
        yield Row("driver", "does not answer (nvidia-smi)")
    else:
        floor = _DRIVER_FLOOR if int((torch.version.cuda or "0").split(".")[0]) >= 13 else 0
        is_new = int(driver.version.split(".")[0]) >= floor
        yield Row("driver", driver.version, str(floor or ""), is_new)
    assert device().type == "cuda", "torch sees no GPU"
    memory = torch.cuda.mem_get_info(0)[1] / 2**30
    yield Row("GPU", f"{torch.cuda.device_count()} x {device_name(setting.device)}, {memory:.0f} GiB")
    for name, value in cuda_versions().items():
        yield Row(name, value)


def arithmetic(setting: Setting) -> Iterator[Row]:
    """Random words, full float32, neighbours."""
    import same

    yield Row("normal draws, largest difference", f"{same.words(setting.device):.1e}", "1e-05 at most")
    yield Row("float32 products, largest error", f"{same.full_float32(setting.device):.1e}", "1e-05 at most")
    shapes = ((1, 4, 4),) if setting.is_short else ((1, 4, 4), (3, 160, 160))
    for shape in shapes:
        for faiss in (True, False):
            for indexed in (False, True):
                same.neighbours(setting.device, shape, indexed, faiss)
    yield Row("neighbours", f"{4 * len(shapes)} searches exact")


def attacks(setting: Setting) -> Iterator[Row]:
    """On a trained small network and on VGG16: success and l2 of each image, beside the CPU's."""
    import same

    sizes = setting.sizes
    for name, settings in same.attack_settings().items():
        if sizes.attacks and name.split(",")[0] not in sizes.attacks:
            continue
        yield _agreement(name, same.attack(settings, setting.device, None, sizes.images))
    if setting.is_short:
        yield Row("VGG16", "not run: short")
        return
    target = _vgg16(setting)
    yield Row("VGG16 trained, clean accuracy", f"{target.accuracy:.0%}", "80%", target.accuracy >= 0.8)
    difference = same.gradients(setting.device, target, 16)
    yield Row("VGG16, gradients to the image", f"{difference:.1e}", "1e-03 at most")
    for name in ("fgsm", "pgd", "deepfool", "cw_l2"):
        settings = next(each for each in same.attack_settings().values() if each.method == name)
        yield _agreement(f"VGG16, {name}", same.attack(settings, setting.device, target, 16))


def _agreement(name: str, found: Any) -> Row:
    value = f"{found.fooled:.0%} fooled, {found.same_outcome:.0%} alike, l2 {found.same_distance:.0%}"
    return Row(name, value, "50%, 90%, 75 to 90%")


def _vgg16(setting: Setting) -> Any:
    """Trained on the digits at 32 x 32, on the device; the small network in a short run."""
    import same

    from harness.networks import NETWORKS

    if setting.is_short:
        return same.small()
    if "vgg16" not in setting.kept:
        architecture = NETWORKS["vgg16"].model_validate({"architecture": "vgg16"})
        data = same.digits(enlarged=4)
        settings = {"epochs": 30, "learning_rate": 1e-4, "batch_size": 64}
        setting.kept["vgg16"] = same.trained(architecture, data, setting.device, **settings)
    return setting.kept["vgg16"]


def trainings(setting: Setting) -> Iterator[Row]:
    """Three objectives in two precisions beside the CPU's; twice, and resumed, the same bit for bit."""
    import same

    for objective in setting.sizes.objectives or same.OBJECTIVES:
        for precision, most in same.PRECISIONS.items():
            difference = same.losses(objective, precision, setting.device)
            yield Row(f"{objective}, {precision}: losses", f"{difference:.1e} apart", f"{most:g} at most")
            same.repeats(objective, precision, setting.device)
            yield Row(f"{objective}, {precision}: twice, resumed", "the same bits")
    for precision in same.PRECISIONS:
        name = f"VGG16, {precision}: with CUDA graphs and without"
        if setting.on_gpu:
            count = same.graphs(precision, setting.device)
            yield Row(name, f"the same bits, {count} graphs", "4", count == 4)
        else:
            yield Row(name, NO_GPU)


def study(setting: Setting) -> Iterator[Row]:
    """All steps of a tiny study, in this process."""
    from conftest import run_study, tiny_study
    from same import computing_on

    began = time.perf_counter()
    small = {"defenses": {}, "attacks": {"fgsm": {"epsilon": [0.1]}}} if setting.is_short else {}
    with computing_on(setting.device):
        run = run_study({**tiny_study(), **small}, setting.folder / "study")
    assert not run.failed, f"cells failed: {list(run.failed)}"
    rows = run.store.read(run.plan.bases[0].cell)
    device = rows["device"][0].as_py()
    assert device.startswith(setting.device.type), f"its base network was trained on '{device}'"
    cells = len(list(run.store.files()))
    yield Row("a whole tiny study", f"{cells} cells in {time.perf_counter() - began:.0f} s")


def defense_speed(setting: Setting) -> Iterator[Row]:
    """The paper's defense on VGG16 at 32 x 32 in bfloat16: samples/s, share of peak, memory, a profile."""
    import speeds

    architecture, shape = _measured(setting)
    # Reckoned: .08 at 128 images, where the GPU waits for launches, .15 at more.
    floors = {128: 0.03, 512: 0.05, 1024: 0.05}
    for batch_size in setting.sizes.batches:
        found = speeds.defense(architecture, shape, setting.device, batch_size, setting.sizes.steps)
        name = f"defense, batch {batch_size}"
        yield Row(f"{name}: samples/s", f"{found.samples_per_s:,.0f}")
        yield _share(name, found.peak_share, floors.get(batch_size, 0), setting)
        memory = NO_GPU if found.peak_bytes is None else f"{found.peak_bytes / 2**30:.1f} GiB"
        yield Row(f"{name}: memory", memory)
    batch_size, steps = setting.sizes.batches[-1], min(20, setting.sizes.steps)
    profile = speeds.profile(architecture, shape, setting.device, batch_size, steps)
    setting.notes.append(f"Profile of {steps} steps of the defense at batch {batch_size}:\n\n{profile}")


def _share(name: str, share: float | None, floor: float, setting: Setting) -> Row:
    if share is None:
        return Row(f"{name}: share of peak", "not known of this GPU" if setting.on_gpu else NO_GPU)
    return Row(f"{name}: share of peak", f"{share:.1%}", f"{floor:.0%}", share >= floor)


def _measured(setting: Setting) -> tuple[Any, tuple[int, int, int]]:
    """The network whose training is measured, and its images."""
    from harness.networks import NETWORKS, ConvNet

    if setting.is_short:
        return ConvNet(width=4), (1, 8, 8)
    return NETWORKS["vgg16"].model_validate({"architecture": "vgg16"}), (3, 32, 32)


def attack_speed(setting: Setting) -> Iterator[Row]:
    """PGD, C&W and JSMA on VGG16 trained on digits at 32 x 32, images/s."""
    import speeds
    from same import computing_on

    from harness.attacks import ATTACKS

    sizes, target = setting.sizes, _vgg16(setting)
    steps = 2 if setting.is_short else 40
    pgd = {"method": "pgd", "epsilon": (8 / 255,), "steps": steps}
    cw = {"method": "cw_l2"} | ({"binary_search_steps": 1, "steps": 2} if setting.is_short else {})
    bf16 = {"gradients": "bfloat16"}
    works: tuple[tuple[str, dict[str, Any], int, float], ...] = (
        (f"PGD, {steps} steps, float32", pgd, sizes.fast, 150),
        (f"PGD, {steps} steps, bf16", {**pgd, **bf16}, sizes.fast, 500),
        ("C&W, float32", cw, sizes.fast, 6),
        ("C&W, bf16", {**cw, **bf16}, sizes.fast, 12),
        ("JSMA", {"method": "jsma"}, sizes.slow, 1),
    )
    for name, settings, count, floor in works:
        attack = ATTACKS[settings["method"]].model_validate(settings)
        with computing_on(setting.device):
            speed = speeds.attack(attack, target, setting.device, count, min(count, 1_024))
        yield _speed(f"{name}: images/s", speed, floor, setting)


def bound(setting: Setting) -> Iterator[Row]:
    """All pairs of 50,000 images of 3,072 values."""
    import speeds

    count, shape = setting.sizes.neighbours, (1, 8, 8) if setting.is_short else (3, 32, 32)
    speed = speeds.bound(setting.device, count, shape)
    yield _speed(f"bound, {count:,} images, all pairs: differences/s", speed, 2e11, setting)


def _speed(name: str, speed: float, floor: float, setting: Setting) -> Row:
    """A speed beside its floor, which is a large GPU's."""
    from harness.networks.device import peak_flops

    value = f"{speed:.2e}" if speed >= 1e6 else f"{speed:,.1f}"
    if peak_flops(setting.device, "bfloat16") is None or setting.is_short:
        return Row(name, value)
    return Row(name, value, f"{floor:g}", speed >= floor)


def over_ray(setting: Setting) -> Iterator[Row]:
    """A study over Ray on one GPU, and a process group of one over NCCL; of two where there are two."""
    if not setting.on_gpu and setting.is_short:
        yield Row("Ray on one GPU, a gang of one over NCCL", NO_GPU)
        return
    if find_spec("ray") is None:
        yield Row("Ray on one GPU, a gang of one over NCCL", "not run: Ray is not installed")
        return
    import over_ray as ray_checks
    import torch
    from same import computing_on

    with computing_on(setting.device):
        cells = ray_checks.same_study(setting.folder / "one")
        yield Row("a study over Ray, one worker", f"{cells} cells as in this process")
        backend = ray_checks.gang_of_one(setting.folder / "gang")
        yield Row("a gang of one", backend, "nccl" if setting.on_gpu else "gloo")
        gpus = torch.cuda.device_count()
        if gpus < 2:
            yield Row("a study over two GPUs", f"not run: {gpus} GPU{'' if gpus == 1 else 's'}")
            return
        cells = ray_checks.same_study(setting.folder / "two", workers=2)
        yield Row("a study over two GPUs", f"{cells} cells as in this process")


Stage = Callable[[Setting], Iterator[Row]]
STAGES: dict[str, Stage] = {
    "versions and device": versions,
    "draws, float32, neighbours": arithmetic,
    "attacks": attacks,
    "trainings": trainings,
    "a whole study": study,
    "speed of the defense": defense_speed,
    "speed of attacks": attack_speed,
    "speed of the bound": bound,
    "Ray": over_ray,
}

# --- running them --------------------------------------------------------------------------------------


def run(setting: Setting, say: Callable[[str], None], stages: dict[str, Stage] = STAGES) -> list[Row]:
    """The rows of all stages, in order, up to the first that is not right."""
    rows: list[Row] = []
    for name, stage in stages.items():
        say(f"-- {name}")
        try:
            for row in stage(setting):
                rows.append(row)
                say(f"   {_line(row)}")
                if not row.is_right:
                    return rows
        except Exception as error:
            reason = str(error).strip().splitlines() or [""]
            rows.append(Row(name, f"failed: {type(error).__name__}: {reason[0]}", is_right=False))
            say(f"   {_line(rows[-1])}")
            setting.notes.append("".join(traceback.format_exception(error)))
            return rows
    return rows


def _line(row: Row) -> str:
    floor = f" (floor {row.floor})" if row.floor else ""
    return f"{row.what}: {row.value}{floor}{'' if row.is_right else '  <- NOT RIGHT'}"


def table(rows: list[Row]) -> str:
    """what, value and floor, as Markdown."""
    lines = ["| what | value | floor |", "| --- | --- | --- |"]
    for row in rows:
        value = row.value if row.is_right else f"**{row.value}**"
        lines.append(f"| {row.what} | {value} | {row.floor} |".replace("\n", " "))
    return "\n".join(lines)


def outcome(rows: list[Row], seconds: float) -> str:
    """In a line: whether all was right, of how many rows."""
    skipped = sum(row.value.startswith("not run") for row in rows)
    if rows and not rows[-1].is_right:
        return f"stopped at '{rows[-1].what}' after {seconds:.0f} s: what comes after it was not run"
    return f"all {len(rows) - skipped} rows are right, {skipped} were not run; {seconds:.0f} s"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED


def take_wheels(folder: Path, into: Path) -> None:
    """Install what this Python lacks from a folder of wheels: for this process and those that it starts."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        sys.exit(f"--wheels: no wheels in '{folder}'")
    lacking = [str(wheel) for wheel in wheels if _version(wheel.name.split("-")[0]) == NOT_INSTALLED]
    if lacking:
        offline = ("--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(into), *lacking]
        subprocess.run(command, check=True)
    sys.path.append(str(into))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(into)]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--short", action="store_true", help="small sizes: whether it runs, not how fast")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, for a machine without a network")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"), help="the file to keep")
    given = parser.parse_args(arguments)
    paths = [str(_ROOT), str(_HERE.parent), str(_HERE)]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        if given.wheels:
            take_wheels(given.wheels, Path(folder) / "wheels")
        import torch

        sizes = SHORT if given.short else FULL
        setting = Setting(torch.device(given.device), sizes, Path(folder))
        began = time.perf_counter()
        rows = run(setting, lambda line: print(line, flush=True))
        said = outcome(rows, time.perf_counter() - began)
    _write(given.out, rows, said, setting.notes)
    print(f"\n{table(rows)}\n\n{said}. Kept in '{given.out}'.")
    return 0 if rows[-1].is_right else 1


def _write(path: Path, rows: list[Row], said: str, notes: list[str]) -> None:
    from harness.results.cells import hardware

    facts = "\n".join(f"{name}: {value}" for name, value in hardware().items())
    blocks = "\n".join(f"\n```\n{note}\n```" for note in [facts, *notes])
    when = datetime.now(UTC).isoformat(timespec="seconds")
    path.write_text(f"# GPU check, {when}\n\n{said}.\n\n{table(rows)}\n{blocks}\n")


if __name__ == "__main__":
    sys.exit(main())
