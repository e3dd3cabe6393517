"""Cells kept through an edit of code from outside: all of them where it changes no number, else none."""

import re
import sys

import pytest
import yaml
from commands import call
from conftest import run_study, snapshot
from outside import ATTACK, DEFENSE, NETWORK, outside_of

from harness.errors import HarnessError
from harness.pipeline.rekey import rekey
from harness.results.store import Store
from harness.results.verification import verify
from harness.study.reading import build


class World:
    """Packages of a user's, a study that uses them, and its results; an edit is seen as in a new process."""

    def __init__(self, outside, folder):
        self.outside, self.folder = outside, folder
        self.network = outside.package(nets=NETWORK)
        self.attack = outside.package(attacks=ATTACK)
        self.defense = outside.package(defenses=DEFENSE)
        self.results = folder / "results"
        self.data = {
            "name": "mine",
            "dataset": {"source": "digits", "train_limit": 60, "test_limit": 20},
            "network": {"use": f"{self.network}.nets:linear"},
            "base": {"epochs": 2, "learning_rate": 0.01},
            "attacks": {
                "fgsm": {"epsilon": [0.1]},
                "noise": {"use": f"{self.attack}.attacks:noise", "settings": {"epsilon": [0.1, 0.3]}},
            },
            "defenses": {
                "smooth": {
                    "use": f"{self.defense}.defenses:smooth",
                    "settings": {"epsilon": 0.2},
                    "epochs": 1,
                },
                "pgd_training": {"epsilon": 0.1, "epochs": 1, "steps": 1},
            },
            "controls": False,
            "checks": {"enabled": False},
            "white_box": {"attacks": ["fgsm", "noise"]},
            "compute": {"workers": 0},
        }

    def run(self, results=None, **changes):
        """Cells made, and the run."""
        there = {*snapshot(results or self.results)} if (results or self.results).exists() else set()
        run = run_study(self.data, results or self.results, **changes)
        assert not run.failed
        return {*snapshot(results or self.results)} - there

    def edit(self, package, module, old, new):
        """The package's file with one text in place of another."""
        file = self.outside.folder / package / f"{module}.py"
        source = file.read_text()
        assert old in source
        file.write_text(source.replace(old, new))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]

    def rekey(self, count=6, seed=0, **changes):
        return rekey(build({**self.data, **changes}), Store(self.results), None, count, seed)

    def tables(self):
        code, printed = call("tables", "--results", self.results)
        assert code == 0, printed
        return printed

    def files(self):
        """Every file's bytes, but for MLflow's and those that say who is at work."""
        paths = [path for path in self.results.rglob("*") if path.is_file()]
        kept = [path for path in paths if path.suffix in (".parquet", ".safetensors", ".json")]
        return {str(path.relative_to(self.results)): path.read_bytes() for path in kept}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits in a second would look the same
    (tmp_path / "code").mkdir()
    with outside_of(tmp_path / "code") as outside:
        yield World(outside, tmp_path)


def test_a_comment_keeps_all_under_the_keys_of_a_fresh_run(world):
    made = world.run()
    before = snapshot(world.results)
    assert "Kept through an edit" not in world.tables()
    world.edit(world.attack, "attacks", "for _ in", "# again and again\n    for _ in")
    found = world.rekey()
    assert all(cell.differences == () for cell in found.sample)
    world.run(world.folder / "fresh")
    fresh = snapshot(world.folder / "fresh")
    assert snapshot(world.results) == fresh
    moved = fresh.keys() - before.keys()
    assert 0 < found.cells == len(moved) < len(made)
    assert all(("attack=noise" in path) or path.startswith("evaluation") for path in moved)
    assert world.run() == set(), "nothing is left to be made"
    assert not [reason for _, reason in verify(Store(world.results)) if reason]
    printed = " ".join(world.tables().split())
    assert "Kept through an edit of code" in printed
    assert re.search(
        rf"mine {world.attack} [0-9a-f]{{16}} -> [0-9a-f]{{16}} {len(found.sample)} of {len(moved)} ", printed
    )


@pytest.mark.parametrize(
    ("kind", "module", "old", "new"),
    [
        ("network", "nets", "nn.ReLU()", "nn.Tanh()"),
        ("attack", "attacks", "epsilon / steps", "0.9 * epsilon / steps"),
        ("defense", "defenses", "(1 - epsilon)", "(1.5 - epsilon)"),
    ],
)
def test_a_changed_number_is_found_and_nothing_is_rekeyed(world, kind, module, old, new):
    """However small the sample is and however it is drawn: it has a cell made with each function."""
    world.run()
    before = world.files()
    world.edit(getattr(world, kind), module, old, new)
    for count, seed in ((1, 0), (1, 1), (1, 2), (6, 0)):
        found = world.rekey(count, seed)
        assert found.cells == 0
        assert any(cell.differences for cell in found.sample)
        assert world.files() == before


def test_only_what_depends_on_the_changed_code_is_made_anew(world):
    world.run()
    world.edit(world.defense, "defenses", "(1 - epsilon)", "(1.5 - epsilon)")
    made = world.run()
    assert len([path for path in made if path.startswith("training")]) == 1
    assert not [path for path in made if path.startswith(("bound", "attack"))]
    # Clean, three sets of images, and three attacks on it.
    assert len([path for path in made if path.startswith("evaluation")]) == 7
    world.edit(world.attack, "attacks", "epsilon / steps", "0.9 * epsilon / steps")
    made = world.run()
    assert not [path for path in made if path.startswith(("bound", "training"))]
    assert len([path for path in made if path.startswith("attack")]) == 2
    # Two sets of images on three networks, and as many attacks on each.
    assert len([path for path in made if path.startswith("evaluation")]) == 12


def test_a_study_that_shares_cells_keeps_its_files(world):
    world.run()
    other = world.run(name="other")
    assert other == set(), "all cells are shared"
    shared = set(snapshot(world.results))
    world.edit(world.attack, "attacks", "for _ in", "# again and again\n    for _ in")
    found = world.rekey()
    after = set(snapshot(world.results))
    assert shared <= after and len(after) == len(shared) + found.cells
    code, printed = call("tables", "--results", world.results, "--study", "other")
    assert code == 0 and " missing" not in printed
    assert world.run(name="other") == set(), "it finds what the first one kept"
    # The other one's record can tell as well, once it is asked; then nobody names the old files.
    study = build({**world.data, "name": "other"})
    again = rekey(study, Store(world.results), None, 3, 0)
    assert again.cells == found.cells
    assert len(snapshot(world.results)) == len(shared)
    assert world.run(name="other") == set() == world.run()


def test_stopped_before_the_record_knows(world, monkeypatch):
    """The same command goes on: all cells are told of, and the old ones go."""
    world.run()
    world.edit(world.attack, "attacks", "for _ in", "# again\n    for _ in")
    with monkeypatch.context() as patch:
        patch.setattr("harness.pipeline.rekey.keep_record", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.rekey()
    half = len(snapshot(world.results))
    found = world.rekey()
    assert len(snapshot(world.results)) == half - found.cells
    assert world.run() == set()


def stopped(*arguments):
    raise KeyboardInterrupt


def test_tables_tell_of_edits_that_led_to_the_code_as_it_is(world):
    world.run()
    for word in ("again", "and again"):
        world.edit(world.attack, "attacks", "for _ in", f"# {word}\n    for _ in")
        world.rekey()
    kept = "Kept through an edit of code"
    assert world.tables().partition(kept)[2].count(f"mine   {world.attack}") == 2
    world.edit(world.defense, "defenses", "(1 - epsilon)", "(1.5 - epsilon)")
    world.run()
    assert kept in world.tables(), "the attack's cells are still those"
    world.edit(world.attack, "attacks", "epsilon / steps", "0.9 * epsilon / steps")
    world.run()
    assert kept not in world.tables()


def test_twice_is_once_too_often(world):
    world.run()
    with pytest.raises(HarnessError, match="no finished cell of study 'mine' was made with other code"):
        world.rekey()
    world.edit(world.attack, "attacks", "for _ in", "# again and again\n    for _ in")
    assert world.rekey().cells
    with pytest.raises(HarnessError, match="no finished cell of study 'mine' was made with other code"):
        world.rekey()
    with pytest.raises(HarnessError, match="no study 'unknown'"):
        world.rekey(name="unknown")


def test_after_a_run_of_the_edited_code_there_is_nothing_to_keep(world):
    """Cells of the new code are there, so those of the old one are not asked for."""
    world.run()
    world.edit(world.attack, "attacks", "for _ in", "# again and again\n    for _ in")
    world.run()
    with pytest.raises(HarnessError, match="nothing to give new keys"):
        world.rekey()


def test_the_command(world):
    """What a user types and sees, with exit codes."""
    world.run()
    study = world.folder / "study.yaml"
    study.write_text(yaml.safe_dump(world.data))
    arguments = ("rekey", study, "--results", world.results)
    code, printed = call(*arguments)
    assert code == 2 and "nothing to give new keys" in printed
    world.edit(world.attack, "attacks", "for _ in", "# again and again\n    for _ in")
    code, printed = call(*arguments)
    assert code == 0 and "cells have new keys" in printed
    assert re.search(r"made again: noise .*: identical", printed)
    world.edit(world.attack, "attacks", "epsilon / steps", "0.9 * epsilon / steps")
    code, printed = call(*arguments)
    assert code == 1 and "the code changed what it makes: `harness run` makes its cells anew" in printed
    assert re.search(r"made again: noise .*: .*mean_l1: 20 of 20 rows", printed)
