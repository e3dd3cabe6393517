"""Bad input at the doors: an error before any work, or a failed cell with its reason and all else made."""

import json
import pickle
import re
import sys

import pytest
import torch
import yaml
from commands import call
from conftest import snapshot
from outside import ATTACK, NETWORK, outside_of

from harness.results.store import Store

IMPORT = "import torch\nfrom torch import nn\nfrom harness import extensions\n"
MARK = {
    "network": "@extensions.network\ndef f(channels, size, classes",
    "attack": "@extensions.attack(norm='linf', cost=1)\ndef f(network, images, labels, ids, seed",
    "defense": "@extensions.defense\ndef f(inputs, seed",
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "code").mkdir()
    with outside_of(tmp_path / "code") as there:
        yield there


def study(**changes):
    """A study of seconds, some of its settings others."""
    return {
        "name": "doors",
        "dataset": {"source": "digits", "train_limit": 60, "test_limit": 20},
        "network": {"architecture": "convnet", "width": 4},
        "base": {"epochs": 1, "learning_rate": 0.01},
        "attacks": {"fgsm": {"epsilon": [0.1]}},
        "controls": False,
        "checks": {"enabled": False},
        "white_box": {"attacks": ["fgsm"]},
        "compute": {"workers": 0},
        **changes,
    }


def run(folder, data):
    """Exit code and output of `harness run`, tables and all."""
    file = folder / "study.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return call("run", file, "--results", folder / "results")


def refused_again(folder, data):
    """The message of a study that must end with exit code 2 where some cells are made."""
    code, printed = run(folder, data)
    assert code == 2 and "Traceback" not in printed, printed
    return " ".join(printed.split())


def refused(folder, data):
    """The message of a study that must end with exit code 2 and leave no cell, no traceback."""
    code, printed = run(folder, data)
    assert code == 2, printed
    assert "Traceback" not in printed
    assert not (folder / "results").exists() or not snapshot(folder / "results")
    return " ".join(printed.split())


def failures(folder, data):
    """Title -> reason of what failed by itself, in a run with exit code 1 whose other cells are all made."""
    code, printed = run(folder, data)
    assert code == 1, printed
    assert "Traceback" not in printed
    store = Store(folder / "results")
    (record,) = store.studies().values()
    made = {path.as_posix() for path in store.files()}
    holes = [cell["path"] for cell in record["cells"] if cell["path"] not in made]
    reasons = [json.loads(path.read_text()) for path in (folder / "results" / "failures").rglob("*.json")]
    assert len(holes) == len(reasons) > 0
    causes = {each["title"]: each["reason"] for each in reasons if not each["waits"]}
    for title, reason in causes.items():
        assert f"{title}: {reason}" in printed, "said at the end of the run"
    assert "Failed" in printed, "said under the tables"
    return causes


def used(use, kind):
    """A study with one thing from outside."""
    entry = {"use": use}
    if kind == "network":
        return study(network=entry)
    if kind == "attack":
        return study(attacks={"fgsm": {"epsilon": [0.1]}, "mine": entry})
    return study(defenses={"mine": entry})


# --- what a name may lead to --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MARK)
@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("os:system", "and 'os' in 'os:system' is a part of Python"),
        ("os.path:join", "and 'os' in 'os.path:join' is a part of Python"),
        ("builtins:exec", "is a part of Python"),
        (
            "yaml:load",
            "a function with the harness's mark (@extensions.{}), and 'yaml:load' is a function without it",
        ),
        ("logging.os:system", "is a part of Python"),
        ("mine.attack:f.__globals__", "with one name after the colon"),
        ("mine.attack", "expected 'package.module:name' with one name after the colon"),
        ("../mine:f", "expected 'package.module:name'"),
        ("harness.cli:main", "is the harness's own"),
        ("not_there_at_all:f", "there is no package 'not_there_at_all' here: install it, or name the folder"),
        ("nobody/f", "no installed package 'nobody'"),
    ],
)
def test_names_of_nothing_that_is_offered(tmp_path, kind, use, message):
    place = {"network": "network", "attack": "attacks.mine", "defense": "defenses.mine"}[kind]
    told = refused(tmp_path, used(use, kind))
    assert f"{place}.use: " in told and message.format(kind) in told


@pytest.mark.parametrize("kind", MARK)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def f(*a): ...",
            "with the harness's mark (@extensions.{kind}), and '{name}:f' is a function without it",
        ),
        ("from os import system as f", "is of type 'builtin_function_or_method'"),
        ("from subprocess import run as f", "and '{name}:f' is a function without it"),
        ("f = 3", "and '{name}:f' is of type 'int'"),
        ("g = 3", "'{name}' has no 'f'"),
        ("{mark}, *, steps=3): ...", "setting 'steps' needs a type"),
        (
            "{mark}, *, steps: 'Never' = 3): ...",
            "setting 'steps' has a type that can't be evaluated: Never (NameError: ",
        ),
        (
            "{mark}, *, steps: int = 'x'): ...",
            "setting 'steps' has a wrong default: should be a valid integer",
        ),
        ("{mark}, **settings): ...", "settings are keyword-only parameters with a type each, got **settings"),
        ("{mark}, *, steps: int): ...", "mine.settings.steps: required, but not given"),
        (
            "raise ValueError('first line\\nno licence here')",
            "'{name}' can't be imported: ValueError: no licence here ({file}:4)",
        ),
        ("x = (", "'{name}' can't be imported: SyntaxError: '(' was never closed ("),
        (
            "import not_there_at_all",
            "'{name}' can't be imported: ModuleNotFoundError: No module named 'not_there_at_all' ({file}:4)",
        ),
        ("exit(0)", "'{name}' can't be imported: SystemExit: 0 ({file}:4)"),
    ],
)
def test_modules_with_something_else(tmp_path, outside, kind, source, message):
    name = outside.module(IMPORT + source.replace("{mark}", MARK[kind]))
    file = outside.folder / f"{name}.py"
    if kind == "network":
        message = message.replace("mine.settings", "network.settings")
    assert message.format(kind=kind, name=name, file=file) in refused(tmp_path, used(f"{name}:f", kind))


@pytest.mark.parametrize(("kind", "other"), [("attack", "network"), ("network", "defense")])
def test_marks_of_another_kind(tmp_path, outside, kind, other):
    name = outside.module(f"{IMPORT}{MARK[other]}): ...")
    assert f"'{name}:f' is marked as a {other}, expected" in refused(tmp_path, used(f"{name}:f", kind))


def test_a_name_that_another_package_defines(tmp_path, outside):
    first = outside.package(attacks=ATTACK)
    name = outside.module(f"from {first}.attacks import noise as f")
    told = refused(tmp_path, used(f"{name}:f", "attack"))
    assert f"'{name}:f' is defined in '{first}.attacks', not in '{name}': name it where it is from" in told


def test_all_of_them_at_once(tmp_path, outside):
    name = outside.module(f"{IMPORT}{MARK['attack']}, *, steps=3): ...")
    data = study(attacks={"a": {"use": "os:system"}, "b": {"use": f"{name}:f"}, "fgsm": {"epsilon": [7]}})
    told = refused(tmp_path, data)
    assert "the study has 3 mistakes" in told
    assert all(f"attacks.{place}" in told for place in ("a.use", "b.use", "fgsm.epsilon.0"))


# --- networks -----------------------------------------------------------------------------------------------

LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], {}))"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "{name}.f should return an nn.Module, got int"),
        ("return None", "{name}.f should return an nn.Module, got NoneType"),
        (f"return {LINEAR.format('classes - 1')}", "9"),
        (f"return {LINEAR.format(1)}", "1"),
        (f"return nn.Sequential({LINEAR.format('classes')}, nn.Softmax(1))", "probabilities"),
        (f"return nn.Sequential({LINEAR.format('classes')}, nn.Linear(3, 3))", "RuntimeError"),
        ("raise ValueError('no such size')", "ValueError: no such size"),
    ],
)
def test_factories_that_make_something_else(tmp_path, outside, body, message):
    name = outside.module(f"{IMPORT}{MARK['network']}): {body}")
    assert message.format(name=name) in refused(tmp_path, used(f"{name}:f", "network"))


CHANGES = ("torch.no_grad()(self.layer.weight.add_)(0.01)", "self.layer.weight.data.add_(0.01)")


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_changes_its_weights(tmp_path, outside, change):
    name = outside.module(
        IMPORT
        + """
class Restless(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.layer = nn.Linear(inputs, classes)
    def forward(self, x):
        if not self.training:
            CHANGE
        return self.layer(x.flatten(1))
@extensions.network
def f(channels, size, classes):
    return Restless(channels * size[0] * size[1], classes)
""".replace("CHANGE", change)
    )
    told = failures(tmp_path, study(models={"theirs": {"use": f"{name}:f"}}))
    assert set(told.values()) == {"RuntimeError: the weights of 'theirs' changed while it was used"}


def saved(path, network):
    torch.save(network.state_dict(), path)
    return str(path)


def test_weights_of_another_network(tmp_path, outside):
    package = outside.package(nets=NETWORK)
    weights = saved(tmp_path / "theirs.pt", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    for data in (
        study(network={"use": f"{package}.nets:linear", "weights": weights}),
        study(models={"theirs": {"use": f"{package}.nets:linear", "weights": weights}}),
    ):
        told = refused(tmp_path, data)
        assert (
            f"weights: '{weights}' in Linear: 4 of 4 tensors differ: 1.weight: expected [8, 64], got [10, 64]"
            in told
        )


class Program:
    """A pickle that wants to write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_file_that_wants_to_run_code(tmp_path):
    weights, trace = tmp_path / "theirs.pt", tmp_path / "trace"
    torch.save({"weight": Program(str(trace))}, weights)
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps({"weight": Program(str(trace))}))
    for path in (weights, old):
        told = refused(tmp_path, study(network={"architecture": "convnet", "width": 4, "weights": str(path)}))
        assert f"weights: '{path}' cannot be read as tensors alone: UnpicklingError: " in told
    assert not trace.exists()


def test_weights_that_are_not_there(tmp_path):
    told = refused(
        tmp_path, study(models={"theirs": {"architecture": "convnet", "weights": "no.safetensors"}})
    )
    assert "no file 'no.safetensors'" in told
    told = refused(tmp_path, study(models={"theirs": {"architecture": "convnet"}}))
    assert "models.theirs: a finished model needs 'weights', the file that holds them" in told


def test_two_models_of_one_name(tmp_path):
    model = "{architecture: convnet, weights: a.pt}"
    text = yaml.safe_dump(study()) + f"models:\n  theirs: {model}\n  theirs: {model}\n"
    assert "'theirs' is given twice, first in line" in refused(tmp_path, text)
    data = study(
        defenses={"pgd_training": {"epsilon": 0.1}}, models={"pgd_training": {"architecture": "convnet"}}
    )
    data["models"]["pgd_training"]["weights"] = "a.pt"
    assert "models.pgd_training: a model can't have the name of a defense" in refused(tmp_path, data)


# --- attacks and defenses -----------------------------------------------------------------------------------

BROKEN_ATTACKS = {
    "outside": ("return images + epsilon", "returned values that are not finite or not in [0, 1]"),
    "far": ("return (images + 2 * epsilon).clamp(0, 1)", "left the linf ball of radius 0.1: 0.2"),
    "nan": ("return images * float('nan')", "returned values that are not finite or not in [0, 1]"),
    "few": ("return images[:1]", "should return torch.float32 (20, 1, 8, 8) on cpu, got torch.float32 (1, "),
    "array": ("return images.numpy()", "should return a float32 tensor (20, 1, 8, 8), got ndarray"),
    "leaver": ("exit(0)", "called exit(0)"),
    "hangs": ("\n    while True: pass", "took longer than 0.5 s for a block of images"),
}


def test_attacks_that_break_their_word(tmp_path, outside):
    """All in one study: each fails by itself, and FGSM is made."""
    source = IMPORT
    for name, (body, _) in BROKEN_ATTACKS.items():
        source += f"{MARK['attack']}, *, epsilon: float): {body}\n".replace("def f(", f"def {name}(")
    package = outside.module(source)
    data = study()
    data["attacks"] |= {
        name: {"use": f"{package}:{name}", "settings": {"epsilon": 0.1}} for name in BROKEN_ATTACKS
    }
    data["compute"]["block_limit_s"] = 0.5
    told = failures(tmp_path, data)
    assert told.keys() == {f"{name} 0.1 on test images" for name in BROKEN_ATTACKS}
    for name, (_, reason) in BROKEN_ATTACKS.items():
        assert told[f"{name} 0.1 on test images"].startswith(f"RuntimeError: {package}.{name} {reason}")


def test_an_attack_that_changes_the_weights(tmp_path, outside):
    body = "next(network.parameters()).data.zero_()"
    name = outside.module(f"{IMPORT}{MARK['attack']}): {body}; return images")
    told = failures(tmp_path, used(f"{name}:f", "attack"))
    assert told == {"mine on test images": "RuntimeError: the weights of 'base' changed while it was used"}


BROKEN_DEFENSES = {
    "number": ("return 3", "{}.number should return an Objective, got int"),
    "diverges": (
        "return Objective(60, lambda network, i, _: nan * network(inputs.clean(i))[:, 0])",
        " is nan",
    ),
    "raises": ("raise ValueError('no')", "ValueError: no"),
}


def test_defenses_that_are_none(tmp_path, outside):
    source = f"{IMPORT}from math import nan\nfrom harness import Objective\n"
    for name, (body, _) in BROKEN_DEFENSES.items():
        source += f"{MARK['defense']}): {body}\n".replace("def f(", f"def {name}(")
    package = outside.module(source)
    defenses = {name: {"use": f"{package}:{name}", "epochs": 1} for name in BROKEN_DEFENSES}
    told = failures(tmp_path, study(defenses={**defenses, "pgd_training": {"epsilon": 0.1, "epochs": 1}}))
    assert told.keys() == BROKEN_DEFENSES.keys()
    for name, (_, reason) in BROKEN_DEFENSES.items():
        assert reason.format(package) in told[name]


def test_code_that_changes_while_the_study_runs(tmp_path, outside):
    """The attack edits its own file: what was made with it is not kept, all else is; a second run ends."""
    name = outside.module(
        IMPORT
        + f"""
{MARK["attack"]}):
    text = open(__file__).read()
    if not text.endswith("# edited"):
        open(__file__, "w").write(text + "# edited")
    return images
"""
    )
    told = failures(tmp_path, used(f"{name}:f", "attack"))
    (reason,) = set(told.values())
    digest = "[0-9a-f]{16}"
    expected = (
        f"code changed while the study ran: '{name}' was {digest} when the study was planned and is {digest}"
    )
    assert re.fullmatch(f"{expected}; run it again", reason)
    assert "mine on test images" in told
    again = refused_again(tmp_path, used(f"{name}:f", "attack"))
    assert f"'{name}' was " in again, "this process has the old code in memory"
    del sys.modules[name]  # as in a process of its own
    code, printed = run(tmp_path, used(f"{name}:f", "attack"))
    assert code == 0, printed
