"""docs/adding.md, 'How to add', to the letter: a file and a line for each kind, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from conftest import tiny_study

import harness

ROOT = Path(__file__).parents[1]
EXAMPLES = Path(__file__).parent / "additions"


class Kind(NamedTuple):
    """A row of the page's table: where the file belongs, and which dict of which file gets the line."""

    folder: str
    listed_in: str
    file_of_list: str


class Addition(NamedTuple):
    """An example: its name, and what the line names."""

    name: str
    value: str


ADDITIONS = {
    "attack": Addition("brightness", "Brightness"),
    "data set": Addition("stripes", "STRIPES"),
    "network": Addition("linear", "Linear"),
    "defense": Addition("label_smoothing", "LabelSmoothing"),
    "table": Addition("clean", "LAYOUT"),
}
STUDY = {
    **tiny_study(),
    "dataset": {"source": "stripes"},
    "network": {"architecture": "linear"},
    "attacks": {"brightness": {"steps": 4}},
    "defenses": {"label_smoothing": {"share": [0.1, 0.2], "epochs": 1}},
}


def how_to_add() -> dict[str, Kind]:
    """The page's table."""
    section = (ROOT / "docs" / "adding.md").read_text().split("\n## How to add\n")[1].split("\n## ")[0]
    row = r"^\| (?:an?) ([\w ]+) \| `(harness/[\w/]+)/NAME\.py`[^|]*\| `(\w+)` in `(harness/[\w/.]+)`"
    return {kind: Kind(*rest) for kind, *rest in re.findall(row, section, re.MULTILINE)}


def test_the_page_tells_of_every_kind():
    assert how_to_add().keys() == ADDITIONS.keys()


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with all examples added."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(harness.__file__).parent, root / "harness", ignore=ignored)
    for kind, where in how_to_add().items():
        name, value = ADDITIONS[kind]
        example = EXAMPLES / f"{kind.replace(' ', '_')}.py"
        shutil.copy(example, root / where.folder / f"{name}.py")
        listing = root / where.file_of_list
        head, opened, rest = listing.read_text().partition(f"\n{where.listed_in}")
        assert opened, f"no {where.listed_in} in {where.file_of_list}"
        module = f"{where.folder}/{name}".replace("/", ".")
        before, brace, entries = rest.partition("= {\n")
        line = f'    "{name}": {value},\n'
        listing.write_text(f"{head}\nfrom {module} import {value}\n{opened}{before}{brace}{line}{entries}")
    return root


def harness_of(root: Path, *words: str) -> str:
    """What a command of the extended package prints."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "harness.cli", *words]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_what_is_added_stands_in_the_tables(extended):
    study, results = extended / "study.yaml", str(extended / "results")
    study.write_text(yaml.safe_dump(STUDY))
    harness_of(extended, "run", str(study), "--results", results)
    printed = harness_of(extended, "tables", "--results", results, "--format", "md")
    assert re.search(r"label smoothing share=0.1.*\|", printed)
    assert re.search(r"label smoothing share=0.2.*\|", printed)
    assert "Brightness" in printed
    assert "Clean accuracy, stripes" in printed
    assert "| label_smoothing share=0.2 |" in printed
    sql = "select distinct dataset, architecture from studies"
    assert "stripes,linear" in harness_of(extended, "sql", sql, "--results", results, "--format", "csv")
    assert "Clean accuracy" in harness_of(extended, "tables", "clean", "--results", results)
    # All of it goes through the plan's prices as well.
    prices = harness_of(extended, "plan", str(study), "--tflops", "1")
    assert re.search(r"baselines +2 ", prices)
