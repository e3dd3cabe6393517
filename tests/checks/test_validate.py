"""``harness validate`` on studies with code from outside, and what a run refuses before its work."""

import re

import pytest
import torch
import yaml
from commands import call, refused
from conftest import Silence, tiny_study
from outside import ATTACK, DEFENSE, NETWORK, outside_of
from pages import ROOT, fits, follow

from harness.checks import ATTACK_CHECKS, DEFENSE_CHECKS, NETWORK_CHECKS
from harness.errors import HarnessError
from harness.networks.convnet import ConvNet
from harness.pipeline import validation
from harness.pipeline.run import check
from harness.results.store import Store
from harness.study.reading import build

SOFTMAX = """
from torch import nn
from harness import extensions

@extensions.network
def softmax(channels, size, classes):
    inputs = channels * size[0] * size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes), nn.Softmax(1))

@extensions.network
def fewer(channels, size, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes - 1))

class Trains(nn.Linear):
    def forward(self, x):
        self.train()
        return super().forward(x)

@extensions.network
def trains(channels, size, classes):
    return nn.Sequential(nn.Flatten(), Trains(channels * size[0] * size[1], classes))

@extensions.network
def infinite(channels, size, classes):
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
    network[1].bias.data.fill_(float("inf"))
    return network

@extensions.network
def leaves(channels, size, classes):
    raise SystemExit(3)
"""
FAR = """
from harness import extensions

@extensions.attack(norm="linf", cost=1)
def far(network, images, labels, ids, seed, *, epsilon: float):
    return 1 - images
"""
MEAN = """
from harness import extensions
from harness.networks.objective import Objective, cross_entropy

@extensions.defense
def mean(inputs, seed):
    def loss(network, indices, epoch):
        return cross_entropy(network(inputs.clean(indices)), inputs.labels[indices]).mean()
    return Objective(len(inputs.pixels), loss)
"""


@pytest.fixture(autouse=True)
def _one_thread(_threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture
def outside(tmp_path):
    with outside_of(tmp_path) as there:
        yield there


@pytest.fixture
def study(outside):
    """A study with one of each that is right, beside built-in ones."""
    package = outside.package(nets=NETWORK, attacks=ATTACK, defenses=DEFENSE)
    data = tiny_study()
    data["network"] = {"use": f"{package}.nets:linear"}
    data["attacks"]["mine"] = {"use": f"{package}.attacks:noise", "settings": {"epsilon": [0.1, 0.5]}}
    settings = {"epsilon": 0.2, "copies": [1, 2]}
    data["defenses"]["theirs"] = {"use": f"{package}.defenses:smooth", "settings": settings}
    data["models"] = {"other": {"use": f"{package}.nets:linear", "settings": {"width": 4}}}
    return data


def written(data, folder):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def lines_of(output):
    """(thing, check) -> status and words, of the command's lines."""
    table = {}
    for line in output.split("\n\n")[0].splitlines():
        thing, name, status, words = (part.strip() for part in line.split("  ") if part.strip())
        table[thing, name] = (status, words)
    return table


def test_a_line_for_each_check_of_everything_from_outside(study, tmp_path):
    code, output = call("validate", written(study, tmp_path))
    assert code == 0, output
    table = lines_of(output)
    expected = []
    for things, checks in (
        (("network base", "model other"), NETWORK_CHECKS),
        (("attack mine",), ATTACK_CHECKS),
        (("defense theirs epsilon=0.2 copies=1", "defense theirs epsilon=0.2 copies=2"), DEFENSE_CHECKS),
    ):
        expected += [(thing, check.name) for thing in things for check in checks]
    assert list(table) == expected
    notes = {place for place, (status, _) in table.items() if status == "note"}
    unused = {(thing, name) for thing, name in expected if "theirs" in thing and name == "needs"}
    assert unused <= notes <= unused | {("attack mine", "effect")}
    assert f"{len(expected) - len(notes)} ok, {len(notes)} to note, 0 failed" in output
    assert table["network base", "logits"] == ("ok", "finite float32 [images, classes]")
    assert table["attack mine", "images"][1].endswith("within the ball: 8 images, linf 0.1 and 0.5")


def test_faults_of_all_three(study, outside, tmp_path):
    package = outside.package(nets=SOFTMAX, attacks=FAR, defenses=MEAN)
    study["network"] = {"use": f"{package}.nets:softmax"}
    study["attacks"]["mine"] = {"use": f"{package}.attacks:far", "settings": {"epsilon": 0.1}}
    study["defenses"]["theirs"] = {"use": f"{package}.defenses:mean"}
    code, output = call("validate", written(study, tmp_path), "--images", 4)
    assert code == 1
    failed = {place: words for place, (status, words) in lines_of(output).items() if status == "failed"}
    assert list(failed) == [("network base", "scores"), ("attack mine", "images"), ("defense theirs", "loss")]
    assert failed["network base", "scores"] == (
        "expected logits, no probabilities; got rows without a value below 0 that sum to 1"
    )
    assert f"{package}.attacks.far left the linf ball of radius 0.1" in failed["attack mine", "images"]
    assert failed["defense theirs", "loss"].endswith("got torch.float32 [] for 4 samples")


def test_nothing_from_outside(tmp_path):
    answer = call("validate", written(tiny_study(), tmp_path))
    assert answer == (0, "nothing in 'tiny' is from outside: there is nothing to check\n")


def test_a_study_that_cannot_be_read(study, tmp_path):
    study["network"]["settings"] = {"widht": 3}
    assert "did you mean 'width'?" in refused("validate", written(study, tmp_path))


def test_a_setting_is_changed_and_a_check_is_stopped(study, outside, tmp_path):
    waits = "from harness import extensions\n@extensions.network\n"
    waits += "def waits(channels, size, classes):\n    while True: pass\n"
    use = f"{outside.module(waits)}:waits"
    arguments = ("--set", f"network.use={use}", "--time-limit", 0.05)
    code, output = call("validate", written(study, tmp_path), *arguments)
    assert code == 1
    assert "got nothing within 0.05 s" in output.splitlines()[0]


def test_attacks_are_tried_on_a_network_that_works(study, outside):
    """Where the study's own fails, on one of the harness's: what is wrong with an attack is the attack's."""
    package = outside.package(nets=SOFTMAX)
    study["network"] = {"use": f"{package}.nets:fewer"}
    made = list(validation.validate(build(study), None, 4, 60.0))
    failed = {(one.thing, one.check) for one in made if one.status == "failed"}
    assert failed == {("network base", "logits")}


# --- before work ------------------------------------------------------------------------------------


def test_a_run_refuses_useless_networks_all_at_once_and_makes_nothing(study, outside, tmp_path):
    package = outside.package(nets=SOFTMAX)
    study["network"] = {"use": f"{package}.nets:softmax"}
    names = ("fewer", "trains", "infinite", "leaves")
    study["models"] |= {name: {"use": f"{package}.nets:{name}"} for name in names}
    message = refused("run", written(study, tmp_path), "--results", tmp_path / "r")
    for words in (
        "network base: expected logits, got what looks like probabilities: leave the last softmax out",
        "model fewer: expected logits [2, 10] of 2 images, got [2, 9]",
        "model trains: expected a network that stays in eval mode, got 1 in training mode",
        "model infinite: expected finite logits, got [inf, inf, inf]",
        "nets.leaves called exit(3)",
    ):
        assert words in message
    assert "model other" not in message
    assert not list((tmp_path / "r").rglob("*.parquet"))
    assert Store(tmp_path / "r").studies() == {}


def test_the_bound_alone_asks_for_no_network(study, outside, tmp_path):
    package = outside.package(nets=SOFTMAX)
    study["network"] = {"use": f"{package}.nets:softmax"}
    check(build(study), Store(tmp_path / "r"), None, Silence(), ("bound",))
    with pytest.raises(HarnessError, match="probabilities"):
        check(build(study), Store(tmp_path / "r"), None, Silence(), ("attack",))


def test_batch_statistics_and_several_workers_are_told_before_work(study, outside, tmp_path):
    source = SOFTMAX.replace("nn.Softmax(1)", "nn.BatchNorm1d(classes)")
    assert "BatchNorm1d" in source
    study["network"] = {"use": f"{outside.package(nets=source)}.nets:softmax"}
    check(build(study), Store(tmp_path / "r"), None, Silence())
    study["base"] = {**study["base"], "workers": 2}
    with pytest.raises(HarnessError, match="network base: .* normalises .* 2 workers .* workers: 1"):
        check(build(study), Store(tmp_path / "r"), None, Silence())


def test_networks_of_the_harness_are_not_tried(study, tmp_path, monkeypatch):
    study["network"] = tiny_study()["network"]
    study["models"] = {}
    monkeypatch.setattr(ConvNet, "body", lambda *given: pytest.fail("was made"))
    check(build(study), Store(tmp_path / "r"), None, Silence())


def test_official_data_is_not_read_for_it(study):
    study["dataset"] = {"source": "mnist", "train_limit": 100}
    validation.check_networks(build(study), None, lambda: pytest.fail("was read"))


# --- the page ---------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "validate.md").read_text()


def test_the_page_shows_what_is_printed(tmp_path):
    (command, code, printed), (asked, _, told) = follow(PAGE, tmp_path)
    assert fits(command.shown, printed), printed
    assert (code, asked.shown, told) == (1, ("1",), "1\n")


@pytest.mark.parametrize(
    ("title", "checks"),
    [("Networks", NETWORK_CHECKS), ("Attacks", ATTACK_CHECKS), ("Defenses", DEFENSE_CHECKS)],
)
def test_every_check_has_a_paragraph(title, checks):
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    assert re.findall(r"^- \*\*(.+?)\*\*: ", section, re.MULTILINE) == [check.name for check in checks]
