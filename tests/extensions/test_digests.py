"""The digest of a package's code, and the folders that packages are searched in."""

import sys

import pytest
from outside import outside_of

from harness.errors import HarnessError
from harness.extensions import Moved, code_folder, digest, must_be, shipped
from harness.extensions.code import located


@pytest.fixture
def outside(tmp_path):
    with outside_of(tmp_path) as there:
        yield there


def test_the_digest_sees_every_python_file_and_nothing_else(outside):
    name = outside.package(nets="a = 1\n")
    folder = outside.folder / name
    seen = [digest(name)]
    assert len(seen[0]) == 16 and int(seen[0], 16) >= 0

    def changed():
        seen.append(digest(name))
        return len(set(seen)) == len(seen)

    (folder / "data.json").write_text("{}")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "nets.cpython-311.pyc").write_bytes(b"0")
    assert digest(name) == seen[0]
    (folder / "nets.py").write_text("a = 1 \n")
    assert changed()
    (folder / "deep").mkdir()
    (folder / "deep" / "er.py").touch()
    assert changed(), "a new module, however empty"
    (folder / "deep" / "er.py").rename(folder / "deep" / "est.py")
    assert changed(), "a path"
    (folder / "deep" / "est.py").unlink()
    assert digest(name) == seen[1]
    (folder / "nets.py").write_text("a = 1\n")
    assert digest(name) == seen[0]


def test_contents_do_not_run_into_each_other(outside):
    first = outside.package(a="xb.py\0", b="")
    second = outside.package(a="x", b="")
    assert digest(first) != digest(second)


def test_the_digest_is_of_files_not_of_what_was_imported(outside, tmp_path):
    """Nothing is imported for it, and what was does not answer for it."""
    name = outside.module("a = 1\n")
    before = digest(name)
    assert name not in sys.modules
    __import__(name)
    (outside.folder / f"{name}.py").write_text("a = 2\n")
    moved = digest(name)
    assert moved != before
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{name}.py").write_text("a = 3\n")
    code_folder([other])
    assert digest(name) not in (before, moved)


def test_a_package_without_init_has_all_its_folders(outside, tmp_path):
    folders = [tmp_path / name / "spread_over_two" for name in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[1] / "b.py").write_text("b = 1\n")
    code_folder([folder.parent for folder in folders])
    before = digest("spread_over_two")
    (folders[0] / "a.py").write_text("a = 1\n")
    assert digest("spread_over_two") != before
    assert len(located("spread_over_two")) == 2


def test_code_must_be_what_it_was(outside):
    first, second, third = (outside.package(nets="a = 1\n") for _ in range(3))
    code = {name: digest(name) for name in (first, second, third)}
    must_be(code)
    (outside.folder / first / "nets.py").write_text("a = 2\n")
    for path in (outside.folder / third).iterdir():
        path.unlink()
    (outside.folder / third).rmdir()
    with pytest.raises(Moved) as caught:
        must_be(code)
    told = str(caught.value)
    assert f"'{first}' was {code[first]} when the study was planned and is {digest(first)}" in told
    assert f"'{third}' was {code[third]} when the study was planned and is not to be found" in told
    assert second not in told
    assert isinstance(caught.value, HarnessError)


def test_folders_stand_in_front_once_in_their_order(outside, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    code_folder([one, two, str(one), one / ".." / "one"])
    code_folder([two])
    assert sys.path[:3] == [str(one), str(two), str(outside.folder)]
    assert sys.path.count(str(one)) == 1
    (tmp_path / "file.py").touch()
    for wrong in (tmp_path / "nowhere", tmp_path / "file.py"):
        before = list(sys.path)
        with pytest.raises(HarnessError, match=f"--code expects a folder that holds packages, got '{wrong}'"):
            code_folder([two, wrong])
        assert sys.path == before


def test_what_is_to_be_sent_along(outside):
    package, module = outside.package(), outside.module("")
    folder = outside.folder.resolve()
    sent = {package: folder / package, module: folder / f"{module}.py"}
    assert shipped([package, "numpy", module]) == sent


@pytest.mark.parametrize("package", ["nowhere_at_all", "sys"])
def test_a_package_that_is_not_there(package):
    with pytest.raises(
        HarnessError, match=f"no package '{package}' in a folder here: install it, or .*--code DIR"
    ):
        digest(package)
