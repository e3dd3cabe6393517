"""The harness as a library: the same numbers as its parts, errors in words, an import that loads nothing."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attack_cases
import numpy as np
import pytest
import torch
from brute_force import CASES, brute, scrambled_index
from conftest import images as random_images
from outside import outside_of
from report import handmade  # a namespace package: the folder of the report's tests
from torch import Tensor, nn

import harness
from harness.attacks import norms, perturb
from harness.attacks.deepfool import DeepFool
from harness.attacks.gradient_sign import Fgsm, Pgd
from harness.errors import HarnessError
from harness.neighbours import learning
from harness.results.store import Store
from harness.study.spec import Study

PACKAGE = Path(harness.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = (DOCS / "library.md").read_text()


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


def fresh(code: str, folder: Path | None = None, *arguments: str) -> str:
    """What a program prints in an interpreter of its own, which must end well and say nothing else."""
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


# --- names ------------------------------------------------------------------------------------------------


def test_importing_loads_nothing_else():
    code = """
import sys
before = set(sys.modules)
import harness
dir(harness)
print(*set(sys.modules) - before)
"""
    packages = {name.partition(".")[0] for name in fresh(code).split()}
    assert packages - sys.stdlib_module_names == {"harness"}


def test_neither_the_bound_nor_results_load_torch(folder):
    code = """
import sys, numpy as np, harness
harness.bound(np.eye(4, dtype=np.uint8).reshape(4, 2, 2), np.arange(4))
print(len(harness.open(sys.argv[1]).table("bound")))
print([name for name in ("torch", "ray", "mlflow") if name in sys.modules])
"""
    assert fresh(code, None, str(folder)).split("\n")[:2] == ["80", "[]"]


def test_every_name_is_there_and_listed():
    for name in harness._EXPORTS:
        value = getattr(harness, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__ == harness._EXPORTS[name]
        assert name in dir(harness)
    assert set(harness.__all__) <= {*harness._EXPORTS, "__version__"}
    assert "open" not in harness.__all__
    assert re.match(r"\d+\.\d+\.\d+", harness.__version__)
    with pytest.raises(AttributeError, match="no attribute 'bounds'"):
        _ = harness.bounds


def test_types_are_imported_from_where_the_names_are():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    typed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}" if node.module == "harness" else node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == harness._EXPORTS
    assert (PACKAGE / "py.typed").exists()


# --- the bound --------------------------------------------------------------------------------------------


def check_bound(found: harness.Bound, truth: list[tuple[int, int]], ids: np.ndarray, values: int) -> None:
    """Brute force's summed distances and ids; ids are not positions."""
    expected = np.array([distance for distance, _ in truth]) / (255 * values)
    assert found.distance.dtype == np.float64 and found.neighbour.dtype == np.int64
    np.testing.assert_array_equal(found.distance, expected)
    np.testing.assert_array_equal(ids[found.neighbour], [neighbour for _, neighbour in truth])


@pytest.mark.parametrize("kind", ["other_class", "any_class"])
@pytest.mark.parametrize("case", CASES)
def test_bound_is_brute_force(case, kind):
    images = CASES[case]
    found = harness.bound(images.pixels, images.labels, neighbours=kind)
    check_bound(found, brute(images, images, same=True)[kind], images.ids, images.pixels[0].size)


@pytest.mark.parametrize("kind", ["other_class", "any_class"])
@pytest.mark.parametrize("indexed", [False, True])
def test_bound_among_other_images(monkeypatch, kind, indexed):
    queries, database = random_images(1, 20, 4), random_images(2, 90, 4)
    if indexed:
        monkeypatch.setattr(learning, "WORTHWHILE", 0)
        monkeypatch.setattr(learning, "index", lambda images, gpu: scrambled_index(images, 1))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = harness.bound(queries.pixels, queries.labels, database.pixels, database.labels, neighbours=kind)
    check_bound(found, brute(queries, database, same=False)[kind], database.ids, database.pixels[0].size)


def test_bound_of_the_same_images_in_any_form():
    images = random_images(3, 40, 3, shape=(1, 5, 4), values=256)
    levels, labels = images.pixels, images.labels
    tensor = torch.from_numpy(levels)
    expected = harness.bound(levels, labels)
    forms = [
        (levels[:, 0], labels.astype(np.uint8)),
        (levels[:, 0].transpose(0, 2, 1).copy().transpose(0, 2, 1), labels),
        (levels / 255, labels),
        (levels.astype(np.float32) * np.float32(1 / 255), labels),
        (tensor, torch.from_numpy(labels)),
        ((tensor.float() / 255).requires_grad_(), torch.from_numpy(labels).int()),
    ]
    for form, theirs in forms:
        found = harness.bound(form, theirs)
        np.testing.assert_array_equal(found.distance, expected.distance)
        np.testing.assert_array_equal(found.neighbour, expected.neighbour)


def test_sigma_is_equation_3():
    found = harness.bound(np.array([[[0, 0]], [[255, 51]]], np.uint8), np.array([0, 1]))
    np.testing.assert_allclose(found.distance, [0.6, 0.6])
    np.testing.assert_allclose(found.sigma(2), [0.15, 0.15])
    with pytest.raises(HarnessError, match="k must be above 0, got 0"):
        found.sigma(0)


IMAGES, LABELS = np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 1])
HALF = np.full((3, 1, 2, 2), 0.5)
UNBOUND: list[tuple[tuple[Any, ...], str]] = [
    (
        (IMAGES, np.ones(3, int)),
        "3 of 3 images have no neighbour of another class: all images are of class 1",
    ),
    ((IMAGES, LABELS, IMAGES, np.ones(3, int)), "2 of 3 images .* all training images are of class 1"),
    ((IMAGES, LABELS[:2]), r"labels must be integers \[3\], one an image, got int64 \(2,\)"),
    ((IMAGES, LABELS / 2), "labels must be integers .* got float64"),
    ((IMAGES, [0, 1, 1]), "labels must be a numpy array or a tensor, got list"),
    ((IMAGES[:0], LABELS[:0]), r"images must be .* not empty, got uint8 \(0, 1, 2, 2\)"),
    ((IMAGES[0, 0], LABELS), r"images must be \[N, C, H, W\].* got uint8 \(2, 2\)"),
    ((IMAGES.astype(np.int64), LABELS), "images must be uint8, or float32 or float64 .* got int64"),
    ((HALF, LABELS), r"floats k/255, .*; got 0.5, which is 127.5/255: np.rint"),
    ((HALF * 4, LABELS), r"got 2.0, which is 510/255"),
    ((-HALF * 2, LABELS), r"got -1.0, which is -255/255"),
    ((HALF * np.nan, LABELS), "got nan"),
    ((torch.zeros(3, 1, 2, 2, dtype=torch.bfloat16), LABELS), "numpy knows, got torch.bfloat16"),
    ((IMAGES, LABELS, IMAGES), "belong together: got one of them"),
    ((IMAGES, LABELS, IMAGES[..., :1], LABELS), r"one size, got \(3, 1, 2, 2\) and \(3, 1, 2, 1\)"),
]


@pytest.mark.parametrize(("given", "words"), UNBOUND, ids=range(len(UNBOUND)))
def test_bound_says_what_is_wrong(given, words):
    with pytest.raises(HarnessError, match=words):
        harness.bound(*given)


def test_bound_of_any_class_needs_two_images():
    one: dict[str, Any] = {"neighbours": "any_class"}
    assert harness.bound(IMAGES[:2], LABELS[1:], **one).neighbour.tolist() == [1, 0]
    with pytest.raises(HarnessError, match="one image alone has no neighbour"):
        harness.bound(IMAGES[:1], LABELS[:1], **one)
    with pytest.raises(HarnessError, match="'other'; did you mean 'other_class'"):
        harness.bound(IMAGES, LABELS, neighbours="other")  # type: ignore[arg-type]


# --- attacks ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Any:
    """A trained network, images, their true labels but for the first, which is another; the predictions."""
    network, images, predicted, _ = attack_cases.digits()
    labels = predicted.clone()
    labels[0] = (predicted[0] + 1) % 10
    return network, images, labels, predicted


@pytest.mark.parametrize("protocol", ["label", "prediction"])
@pytest.mark.parametrize(
    "settings",
    [Pgd(method="pgd", epsilon=(0.1,), steps=3), DeepFool(method="deepfool", steps=10)],
    ids=["pgd", "deepfool"],
)
def test_attack_is_perturb(digits, settings, protocol):
    network, images, labels, predicted = digits
    given = settings.model_dump(exclude={"epsilon", "method"})
    (epsilon,) = settings.epsilons
    ids = torch.arange(100, 124)
    ours = {"epsilon": epsilon, "seed": 5, "ids": ids, "batch_size": 7, "protocol": protocol}
    found = harness.attack(network, images, labels, settings.method, **ours, **given)
    start = labels if protocol == "label" else predicted
    (made,) = perturb(network, images, start, ids, settings, 5, 7)
    assert torch.equal(found.images, made)
    with torch.no_grad():
        afterwards = network(made).argmax(1)
    np.testing.assert_array_equal(found.predicted, predicted)
    np.testing.assert_array_equal(found.adversarial_predicted, afterwards)
    np.testing.assert_array_equal(found.fooled, (afterwards != predicted).numpy())
    for name, size in norms(images, made).items():
        np.testing.assert_array_equal(getattr(found, name), size)
    assert found.fooled.any() and found.seconds > 0


def test_attack_takes_bytes_arrays_and_fractions(digits):
    network, images, labels, _ = digits
    levels = (255 * images).round().to(torch.uint8)
    expected = harness.attack(network, levels.float() / 255, labels, "fgsm", epsilon=8 / 255)
    given = (levels.numpy(), labels.numpy().astype(np.int32), "fgsm")
    found = harness.attack(network, *given, epsilon="8/255", ids=np.arange(24))
    assert torch.equal(found.images, expected.images)


class Strides(nn.Module):
    """Ten logits of any images, and whether all that it saw had a new tensor's strides."""

    ordinary = True

    def forward(self, images: Tensor) -> Tensor:
        self.ordinary &= images.is_contiguous()
        return images.flatten(1)[:, :10]


def test_attack_shows_images_of_ordinary_strides_alone():
    network = Strides().eval()
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = images.to(memory_format=torch.channels_last)
    for given in (images, turned, (255 * turned).to(torch.uint8)):
        harness.attack(network, given, torch.arange(4), "fgsm", epsilon=0.1)
    assert network.ordinary


def test_attack_leaves_the_network_and_torch_as_they_were(digits):
    network, images, labels, _ = digits
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        harness.attack(network, images, labels, "fgsm", epsilon=0.1)
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = flags
    assert not network.training
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


UNATTACKED: list[tuple[dict[str, Any], str]] = [
    ({"method": "deepfol"}, "unknown attack method 'deepfol'; did you mean 'deepfool'"),
    (
        {"method": "pgd", "epsilon": 2, "stepz": 3, "restarts": 0},
        r"'pgd' has 3 mistakes:\n.*epsilon: .* less than or equal to 1, got 2.*\n.*restarts: .*\n"
        r".*stepz: unknown setting; did you mean 'steps'",
    ),
    ({"method": "fgsm"}, r"'fgsm' has 1 mistake:\n  epsilon: required, but not given"),
    ({"epsilon": 0.1}, "epsilon: unknown setting"),
    ({"method": "fgsm", "epsilon": [0.1, 0.2]}, "epsilon: .*valid number"),
    ({"steps": torch.ones(1)}, "plain values: .*Tensor"),
    ({"images": torch.zeros(3, 1, 8, 8).double()}, r"images must be float32 .* got torch.float64"),
    ({"images": torch.zeros(0, 1, 8, 8)}, "not empty"),
    ({"images": torch.full((24, 1, 8, 8), 1.5)}, r"images must lie in \[0, 1\]"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be integers \[24\].* got int64 \(3,\)"),
    ({"labels": torch.full((24,), 10)}, "labels must be 0 to 9, got 10"),
    ({"ids": np.zeros(24)}, "ids must be integers"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"protocol": "labels"}, "unknown protocol 'labels'; did you mean 'label'"),
    ({"network": lambda images: images}, "torch.nn.Module, got function"),
    ({"network": nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)).eval()}, "probabilities"),
    ({"network": nn.Flatten(0).eval()}, r"must return logits \[B, classes\], got \(1536,\)"),
    ({"network": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, "must be in eval mode"),
]


@pytest.mark.parametrize(("changes", "words"), UNATTACKED, ids=range(len(UNATTACKED)))
def test_attack_says_what_is_wrong(digits, changes, words):
    network, images, labels, _ = digits
    with pytest.raises(HarnessError, match=words):
        harness.attack(**{"network": network, "images": images, "labels": labels, **changes})


def test_attack_of_a_network_in_training_mode_shows_it_nothing(digits):
    _, images, labels, _ = digits
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(HarnessError, match="eval mode"):
        harness.attack(network, images, labels, protocol="prediction")
    assert network[0].num_batches_tracked == 0


BRIGHTER = """
from harness import extensions

@extensions.attack(norm="linf", cost=1)
def brighter(network, images, labels, ids, seed, *, epsilon: float, sign: int = 1):
    return (images + epsilon * sign).clamp(0, 1)
"""


def test_attack_from_outside(digits, tmp_path):
    network, images, labels, _ = digits
    with outside_of(tmp_path) as outside:
        use = f"{outside.module(BRIGHTER)}:brighter"
        found = harness.attack(network, images, labels, use, epsilon=0.25, sign=-1)
        assert torch.equal(found.images, (images - 0.25).clamp(0, 1))
        mistakes = r"has 2 mistakes:\n  epsilon: .*got 2\n  sing: unknown setting; did you mean 'sign'"
        with pytest.raises(HarnessError, match=mistakes):
            harness.attack(network, images, labels, use, epsilon=2, sing=1)
        with pytest.raises(HarnessError, match=r"has 1 mistake:\n  epsilon: required"):
            harness.attack(network, images, labels, use)
        with pytest.raises(HarnessError, match=f"has 1 mistake:\n  use: .*{use[:9]}"):
            harness.attack(network, images, labels, use.replace(":brighter", ":darker"), epsilon=0.1)


def test_attack_of_several_epsilons_of_its_own(digits, monkeypatch):
    network, images, labels, _ = digits
    monkeypatch.setattr(Fgsm, "epsilons", (0.1, 0.2))
    with pytest.raises(HarnessError, match=r"one epsilon at a time, got \[0.1, 0.2\]"):
        harness.attack(network, images, labels, "fgsm", epsilon=0.1)


def test_effectiveness_counts_what_fools_within_its_own_sigma():
    made = harness.Attacked(
        images=torch.zeros(4, 1, 1, 1),
        predicted=np.array([0, 0, 0, 0]),
        adversarial_predicted=np.array([1, 1, 0, 1]),
        **dict.fromkeys(("l0", "l1", "l2", "linf"), np.zeros(4)),
        mean_l1=np.array([0.1, 0.2, 0.1, 0.1 + 1e-9]),
        seconds=1.0,
    )
    bound = harness.Bound(np.full(4, 0.4), np.zeros(4, np.int64))
    assert harness.effectiveness(made, bound, 2) == 25
    assert harness.effectiveness(made, bound, 1) == 75
    with pytest.raises(HarnessError, match="4 attacked images and the bound of 1"):
        harness.effectiveness(made, harness.Bound(np.zeros(1), np.zeros(1, np.int64)))


def test_effectiveness_is_the_views(opened):
    rows = opened.sql(
        "select * from attack join bound using (study, split, image_id) "
        "where attack = 'deepfool' and split = 'test' and neighbours = 'other_class'"
    )
    sizes = {name: rows[name].to_numpy() for name in ("l0", "mean_l1", "l1", "l2", "linf")}
    classes = {name: rows[name].to_numpy() for name in ("predicted", "adversarial_predicted")}
    made = harness.Attacked(torch.zeros(10), **classes, **sizes, seconds=0.0)
    bound = harness.Bound(rows["distance"].to_numpy(), rows["neighbour_id"].to_numpy())
    (expected,) = opened.sql(
        "select effective_own from effectiveness where attack = 'deepfool'"
    ).effective_own
    assert 0 < expected < 100
    assert harness.effectiveness(made, bound) == pytest.approx(expected)


# --- results ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Results of two studies; only read."""
    path = tmp_path_factory.mktemp("library") / "results"
    store = Store(path).open()
    handmade.fill(store, handmade.Study())
    handmade.fill(store, handmade.Study("another", dataset="digits", paper=None))
    return path


@pytest.fixture(scope="module")
def opened(folder):
    with harness.open(folder, "small") as results:
        yield results


def test_results_are_data_frames(folder, opened):
    frame = opened.sql("select image_id, distance from bound where split = 'test' order by distance limit 3")
    assert list(frame.columns) == ["image_id", "distance"] and len(frame) == 3
    assert frame.distance.is_monotonic_increasing and frame.distance.dtype == np.float64
    assert opened.table("bound").equals(opened.sql("from bound"))
    assert set(opened.table("black_box").name) == {network.name for network in handmade.Study().networks}
    assert {"bound", "attack", "evaluation", "training", "table7", "missing"} <= set(opened.tables())
    assert opened.studies() == ["small"]
    with harness.open(str(folder)) as both:
        assert both.studies() == ["another", "small"]
        assert len(both.table("bound")) == 2 * len(opened.table("bound"))


def test_results_only_read(opened):
    for statement in (
        "drop view table2",
        "copy bound to 'x.csv'",
        "select 1; select 2",
        "create table x(a int)",
    ):
        with pytest.raises(HarnessError, match="one statement that reads"):
            opened.sql(statement)
    with pytest.raises(HarnessError, match="nowhere"):
        opened.sql("from nowhere")
    with pytest.raises(HarnessError, match="no table 'tabel2'; did you mean 'table2'"):
        opened.table("tabel2")


def test_results_that_are_not_there(tmp_path, folder):
    with pytest.raises(HarnessError, match="holds no results"):
        harness.open(tmp_path)
    with pytest.raises(HarnessError, match="no study 'smal'.*did you mean 'small'"):
        harness.open(folder, "smal")


def test_results_close(folder):
    with harness.open(folder) as results:
        assert "closed" not in repr(results)
    results.close()
    assert "closed" in repr(results)
    for use in (
        results.tables,
        results.studies,
        lambda: results.sql("select 1"),
        lambda: results.table("bound"),
    ):
        with pytest.raises(HarnessError, match="were closed: open them again"):
            use()


def test_an_interpreter_ends_well_with_results_open(folder):
    code = (
        "import sys, torch, harness\nresults = harness.open(sys.argv[1])\nprint(len(results.table('attack')))"
    )
    assert fresh(code, None, str(folder)).strip() == "80"


# --- the documentation ------------------------------------------------------------------------------------


def promised(section: str) -> dict[str, str]:
    """The first column of a section's table, a name, and the second."""
    text = REFERENCE.split(f"\n### {section}\n")[1].split("\n### ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


def test_the_promised_names_are_all_that_there_are():
    assert promised("Names").keys() == {*harness._EXPORTS, "__version__"}


def test_the_promised_columns_are_there(opened):
    tables = promised("Tables")
    assert {"bound", "attack", "evaluation", "training"} <= tables.keys()
    for table, columns in tables.items():
        known = opened.sql(f"describe {table}").column_name
        assert set(re.findall(r"\w+", columns)) <= set(known), table


def test_the_promised_keys_of_a_study_are_there():
    keys = promised("Studies")
    assert Study.model_fields.keys() >= keys.keys() >= {"name", "dataset", "attacks", "defenses"}


def test_the_examples_run(tmp_path, folder, monkeypatch, capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL))
    assert all(f"harness.{name}(" in code for name in ("bound", "attack", "effectiveness", "open"))
    (tmp_path / "results").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "library.md", "exec"), {})
    said = capsys.readouterr().out
    assert "torch.Size([300, 1, 8, 8])" in said
    assert "['another', 'small']" in said


def test_the_notebook_runs(tmp_path):
    notebook = json.loads((DOCS / "library.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    said = fresh("\n".join(cells), tmp_path)
    shown = {
        name: float(value) for name, value in re.findall(r"^(\w[\w %]*): ([\d.]+) %$", said, re.MULTILINE)
    }
    assert shown["clean accuracy"] > 90
    assert shown["deepfool fools"] > 90
    assert 0 < shown["deepfool effective"] < shown["deepfool fools"]
    assert "sigma_mean" in said
