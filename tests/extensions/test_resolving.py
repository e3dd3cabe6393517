"""What ``use`` may name, and what is said where it names something else."""

import re
import sys

import pytest
from outside import ATTACK, NETWORK, outside_of

from harness import extensions
from harness.errors import HarnessError
from harness.extensions import resolve

IMPORT = "from harness import extensions\n"
MARKED = f"{IMPORT}@extensions.network\ndef make(channels, size, classes): ...\n"


@pytest.fixture
def outside(tmp_path):
    with outside_of(tmp_path) as there:
        yield there


def refused(use, kind, message):
    with pytest.raises(HarnessError, match=message):
        resolve(use, kind)


def test_a_marked_function_is_found_and_stays_what_it_is(outside):
    name = outside.package(attacks=ATTACK)
    found = resolve(f"{name}.attacks:noise", "attack")
    assert found.function is sys.modules[f"{name}.attacks"].noise
    assert (found.package, found.algorithm, found.title) == (name, f"{name}.attacks.noise", "Noise")
    assert (found.mark.norm, found.number("cost", {"steps": 7})) == ("linf", 7)
    assert found.call(1, 2, 3, 4, 5, epsilon=0, steps=0) == 2, "without a step the images come back"


def test_a_mark_without_brackets_and_a_package_of_one_file(outside):
    name = outside.module(MARKED)
    assert resolve(f"{name}:make", "network").title == "make"
    bare = f"{IMPORT}@extensions.defense\ndef make(inputs, seed): ...\n"
    mark = resolve(f"{outside.module(bare)}:make", "defense").mark
    assert (mark.bound, mark.samples_per_image, mark.gradients_per_sample) == (False, 1, 0)


def test_only_what_is_named_is_imported(outside):
    name = outside.package(nets=MARKED, other="raise ValueError")
    resolve(f"{name}.nets:make", "network")
    assert f"{name}.other" not in sys.modules
    extensions.Kind  # noqa: B018
    with pytest.raises(HarnessError):
        resolve("antigravity:fly", "network")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            "os:system",
            r"harness's mark \(@extensions.network\).* and 'os' in 'os:system' is a part of Python",
        ),
        ("os.path:join", "is a part of Python"),
        ("__main__:make", "'__main__' in '__main__:make' is the running script"),
        ("harness.networks.convnet:ConvNet", "is the harness's own: name what is built in by its word"),
        ("nowhere_at_all.nets:make", "no package 'nowhere_at_all' here: install it, .*--code DIR"),
        ("nowhere/make", "no installed package 'nowhere'"),
        ("make", "expected 'package.module:name' with one name after the colon, .* got 'make'"),
        ("", "expected 'package.module:name'"),
        ("a.b:c.d", "one name after the colon, or 'package/name', got 'a.b:c.d'"),
        ("a..b:c", "expected 'package.module:name'"),
        ("a:b:c", "expected 'package.module:name'"),
        (".a:b", "expected 'package.module:name'"),
        ("a/b/c", "expected 'package.module:name'"),
        ("a:b\n", "expected 'package.module:name'"),
    ],
)
def test_names_that_lead_nowhere(use, message):
    refused(use, "network", message)


def test_what_is_there_but_not_meant_to_be_used(outside):
    source = MARKED + "import os\ndef plain(): ...\nnumber = 3\n@extensions.network\nclass Net: ...\n"
    name = outside.package(nets=source)
    expected = "expected a function with the harness's mark (@extensions.network), and "
    refused(
        f"{name}.nets:plain", "network", re.escape(f"{expected}'{name}.nets:plain' is a function without")
    )
    refused(f"{name}.nets:number", "network", re.escape(f"{expected}'{name}.nets:number' is of type 'int'"))
    refused(f"{name}.nets:Net", "network", "is of type 'type'")
    refused(f"{name}.nets:os", "network", "is of type 'module'")
    refused(f"{name}.nets:mak", "network", f"'{name}.nets' has no 'mak'; did you mean 'make'?")
    refused(f"{name}.net:make", "network", f"no module '{name}.net'; did you mean 'nets'?")
    refused(f"{name}.nets.deep:make", "network", f"no module '{name}.nets.deep'")
    wanted = "is marked as a network, expected an attack \\(@extensions.attack\\)"
    refused(f"{name}.nets:make", "attack", wanted)


def test_a_name_that_is_from_another_package(outside):
    """Nothing of the harness's or of others gets in under the name of a package."""
    there = outside.package(nets=MARKED)
    here = outside.package(mine=f"from {there}.nets import make\nfrom os import system\n")
    message = f"is defined in '{there}.nets', not in '{here}': name it where it is from"
    refused(f"{here}.mine:make", "network", message)
    refused(f"{here}.mine:system", "network", "and '.*' is of type 'builtin_function_or_method'")
    within = outside.package(nets=MARKED)
    (outside.folder / within / "__init__.py").write_text("from .nets import make\n")
    assert resolve(f"{within}:make", "network").algorithm == f"{within}.make"


@pytest.mark.parametrize(
    ("source", "reason", "line"),
    [
        ("x = 1\nraise ValueError('first\\nlast')", "ValueError: last", 2),
        ("def (", r"SyntaxError: invalid syntax \(nets.py, line 1\)", 1),
        ("\n\nimport sys\nsys.exit(3)", "SystemExit: 3", 4),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'", 1),
        ("import json\njson.loads('{')", "JSONDecodeError: Expecting property name", 2),
        ("raise KeyError", "KeyError", 1),
    ],
)
def test_a_package_that_raises_when_it_is_imported(outside, source, reason, line):
    name = outside.package(nets=source)
    where = re.escape(str(outside.folder / name / "nets.py"))
    refused(
        f"{name}.nets:make", "network", rf"'{name}.nets' can't be imported: {reason}.* \({where}:{line}\)"
    )
    assert f"{name}.nets" not in sys.modules


def test_a_repaired_package_is_found(outside):
    """A second try in the same process, as in a notebook."""
    name = outside.package()
    refused(f"{name}.nets:make", "network", f"no module '{name}.nets'")
    (outside.folder / name / "nets.py").write_text(MARKED)
    assert resolve(f"{name}.nets:make", "network")


def test_entry_points(outside):
    name = outside.package(nets=NETWORK, broken="raise ValueError")
    refused("some-networks/linear", "network", "no installed package 'some-networks'")
    outside.installed(
        "Some_Networks",
        f"[harness.networks]\nlinear = {name}.nets:linear\ntwice = {name}.nets:linear\n"
        f"deep = {name}.nets:Some.thing\nbroken = {name}.broken:make\nown = os:system\n"
        f"[harness.attacks]\nother = {name}.broken:make\n",
    )
    found = resolve("some-networks/linear", "network")
    assert (found.package, found.algorithm) == (name, f"{name}.nets.linear")
    assert f"{name}.broken" not in sys.modules
    refused(
        "some-networks/linea", "network", "among its entry points 'harness.networks'; did you mean 'linear'"
    )
    refused(
        "some-networks/linear", "attack", r"no 'linear' among its entry points 'harness.attacks' \(known: o"
    )
    refused("some-networks/linear", "defense", "no 'linear' among its entry points 'harness.defenses'$")
    refused(
        "sme-networks/linear", "network", "no installed package 'sme-networks'; did you mean 'Some_Networks'"
    )
    refused(
        "some-networks/deep", "network", f"got 'some-networks/deep', which leads to '{name}.nets:Some.thing'"
    )
    refused("some-networks/broken", "network", "can't be imported: ValueError")
    refused("some-networks/own", "network", "is a part of Python")


def test_two_entry_points_of_one_name(outside):
    name = outside.package(nets=NETWORK)
    points = f"[harness.networks]\nlinear = {name}.nets:linear\nlinear = {name}.nets:other\n"
    outside.installed("two", points)
    refused("two/linear", "network", f"'two' has several 'linear'.*'{name}.nets:linear', '{name}.nets:other'")
