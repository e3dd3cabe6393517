"""One study of things from outside alone, the ones of docs/'s pages, by commands typed in another folder.

Each author's code is a package of its own, so what depends on it can be told apart.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from pages import ROOT, File, blocks, call

STUDY = Path(__file__).parent / "all_doors" / "study.yaml"
RUN = "harness run study.yaml --code ."
PACKAGES = {"attacker": "mine/attack.py", "defender": "mine/trades.py", "modeller": "mine/nets.py"}
NETWORKS = ("base", "trades epsilon=0.1 beta=6", "theirs")
ATTACKS = ("FGSM 0.1", "square 0.1", "corners 0.1")
# Of an attack: its images, three networks tested on them, and the white box of each network.
OF_AN_ATTACK = 1 + 3 + 3
# Of a network: itself, clean images, and three attacks in the black box and in the white box.
OF_A_NETWORK = 1 + 1 + 3 + 3


def page_files(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    return {block.path: block.content for block in blocks(text) if isinstance(block, File)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder with everything, and what the first run printed."""
    folder = tmp_path_factory.mktemp("doors")
    pages = {name: page_files(f"your-{name}") for name in ("network", "attack", "defense", "model")}
    sources = pages["attack"] | pages["defense"] | pages["model"]
    for package, source in PACKAGES.items():
        (folder / package).mkdir()
        (folder / package / Path(source).name).write_text(sources[source])
    (folder / "train_base.py").write_text(pages["network"]["train.py"])
    trained = pages["model"]["train.py"].replace("from mine.nets", "from modeller.nets")
    (folder / "train_theirs.py").write_text(trained)
    assert call("python train_base.py && python train_theirs.py", folder) == (0, "")
    shutil.copy(STUDY, folder)
    code, printed = call(RUN, folder)
    assert code == 0, printed
    return folder, printed


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy", copy_function=_copied)
    return tmp_path / "copy"


def _copied(source, target):
    """Stored weights are 45 MB each, and never written in place: a second name is enough."""
    (os.link if "tensors" in Path(source).parts else shutil.copy2)(source, target)


def edit(folder, package, old, new):
    file = folder / package / Path(PACKAGES[package]).name
    source = file.read_text()
    assert old in source
    file.write_text(source.replace(old, new))


def cells_made(printed):
    return int(re.search(r"^(\d+) cells made", printed, re.MULTILINE)[1])


def test_all_of_them_are_in_the_tables(finished):
    folder, printed = finished
    assert "missing (-)" not in printed and "Failed" not in printed
    # Of the images alone, and what three attacks and three networks have, what belongs to both counted once.
    assert cells_made(printed) == 4 + 3 + 3 + 3 * (1 + 3 + 3)
    white_box = printed[printed.index("White box (V-E)") :]
    for network in NETWORKS:
        for attack in ATTACKS:
            assert re.search(rf"^{re.escape(network)} +{re.escape(attack)} +\d", white_box, re.MULTILINE)
    table7 = printed[printed.index("Adversarial training") : printed.index("White box (V-E)")]
    for network in NETWORKS[1:]:
        accuracies = r"( +\d+\.\d \[\d+\.\d, \d+\.\d\]){4}"
        assert re.search(rf"^{re.escape(network)}{accuracies} *$", table7, re.MULTILINE)
    table3 = printed[printed.index("Table III") : printed.index("Black box")]
    assert all(re.search(rf"^{re.escape(attack)} +24 ", table3, re.MULTILINE) for attack in ATTACKS)


def test_what_they_are_called_in_sql(finished):
    query = "select distinct attack, attack_method from attack order by attack"
    code, printed = call(f'harness sql "{query}" --format csv', finished[0])
    assert code == 0
    expected = ["corners,attacker.attack.corners", "fgsm,fgsm", "square,art.SquareAttack"]
    assert printed.split()[1:] == expected
    query = "select distinct name, method from training order by name"
    code, printed = call(f'harness sql "{query}" --format csv', finished[0])
    expected = ["base,base", "theirs,finished", f"{NETWORKS[1]},defender.trades.trades"]
    assert printed.splitlines()[1:] == expected


def test_looking_at_them_needs_no_code_and_again_makes_nothing(folder):
    code, printed = call(RUN, folder)
    assert code == 0 and cells_made(printed) == 0
    for package in PACKAGES:
        shutil.rmtree(folder / package)
    code, printed = call("harness tables", folder)
    assert code == 0 and "theirs" in printed
    code, printed = call("harness verify", folder)
    assert code == 0 and ", 0 files damaged" in printed


@pytest.mark.parametrize(
    ("package", "old", "new", "count"),
    [
        ("attacker", "epsilon * torch", "0.5 * epsilon * torch", OF_AN_ATTACK),
        ("defender", "+ beta *", "+ 2 * beta *", OF_A_NETWORK),
        ("modeller", "ReLU", "Tanh", OF_A_NETWORK),
    ],
)
def test_a_change_makes_anew_what_depends_on_it(folder, package, old, new, count):
    edit(folder, package, old, new)
    code, printed = call("harness rekey study.yaml --code .", folder)
    assert code == 1 and "the code changed what it makes" in printed
    code, printed = call(RUN, folder)
    assert code == 0 and cells_made(printed) == count, printed
    assert "Kept through an edit" not in printed


def test_comments_in_all_of_them_keep_all(folder):
    for package in PACKAGES:
        edit(folder, package, "from harness", "# The harness:\nfrom harness")
    code, printed = call("harness rekey study.yaml --code .", folder)
    both = 2  # attacks of one and networks of another, made in the white box
    count = OF_AN_ATTACK + 2 * OF_A_NETWORK - 2 * both
    assert code == 0 and f"{count} cells have new keys" in printed, printed
    code, printed = call(RUN, folder)
    assert code == 0 and cells_made(printed) == 0
    kept = printed[printed.index("Kept through an edit of code") :]
    assert all(re.search(rf"^all-doors +{package} +[0-9a-f]{{16}} -> ", kept, re.M) for package in PACKAGES)


def test_other_weights_make_anew_what_they_are_in(folder):
    program = (
        "from safetensors.torch import load_file, save_file; weights = load_file('theirs.safetensors'); "
        "weights['3.bias'] += 0.1; save_file(weights, 'theirs.safetensors')"
    )
    assert call(f'python -c "{program}"', folder) == (0, "")
    code, printed = call(RUN, folder)
    assert code == 0 and cells_made(printed) == OF_A_NETWORK
