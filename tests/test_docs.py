"""README and the pages of docs/: whoever does what they say, outside the checkout, sees what they show."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import generated
import pages
import pytest
import yaml
from pages import ROOT, Command, File, blocks, fits, follow

from harness.cli import main
from harness.cli.job import arguments
from harness.study.files import presets, read
from harness.study.reading import build, load

DOCS = ROOT / "docs"
RUN = [ROOT / "README.md"]
RUN += [DOCS / f"your-{kind}.md" for kind in ("network", "attack", "defense", "model", "data")]
RUN += [DOCS / "compare-and-export.md"]
# Run by tests of their own.
RUN_ELSEWHERE = [DOCS / "validate.md", DOCS / "library.md"]
BESIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
BESIDE += ["results/README.md", "results/reference/README.md", "harness/report/views/README.md"]
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / path for path in BESIDE)]


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@each(RUN)
def test_a_page_does_what_it_shows(page, tmp_path):
    seen = list(follow(page.read_text(), tmp_path))
    assert any(command.line.startswith("harness run") for command, _, _ in seen)
    following = [command for command, _, _ in seen[1:]] + [None]
    for (command, code, printed), after in zip(seen, following, strict=True):
        assert fits(command.shown, printed), f"{command}\n{printed}"
        told = after is not None and after.line == "echo $?"
        assert code == 0 or told, f"{command}\n{printed}"


@each(RUN)
def test_an_example_is_short(page):
    """Under 40 lines of code and settings, comments and blanks left out."""
    text = page.read_text()
    files = {block.path: block.content for block in blocks(text) if isinstance(block, File)}
    lines = [line for content in files.values() for line in content.splitlines()]
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert 0 < len(code) < 40
    for path, content in files.items():
        if path.endswith(".py"):
            ast.parse(content)


# --- what is run by no test: it can be typed, and says when it was measured ---------------------------------

MEASURED = re.compile(r"(measured|reckoned)\b[^`]*\b20\d\d-\d\d-\d\d", re.IGNORECASE)
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@each([page for page in PAGES if page not in RUN_ELSEWHERE])
def test_output_is_run_or_says_when_it_was_measured(page):
    """In the paragraph before it, or in the one after."""
    text = page.read_text()
    for block in FENCED.finditer(text):
        is_run = page in RUN and block[1] == "console"
        if block[1] in ("console", "text") and not is_run:
            before = text[: block.start()].rstrip().rpartition("\n\n")[2]
            after = text[block.end() :].lstrip().partition("\n\n")[0]
            assert MEASURED.search(before) or MEASURED.search(after), block[0]


@each(PAGES)
def test_a_block_says_what_it_is(page):
    """One without a language would be neither run nor asked when it was measured."""
    kinds = {kind for kind, _ in FENCED.findall(page.read_text())}
    assert kinds <= {"bash", "console", "python", "yaml", "text", "tree", "bibtex"}


@each(PAGES)
def test_commands_can_be_typed(page):
    for line in _typed(page.read_text()):
        if line.startswith("harness "):
            _check_typed(shlex.split(line, comments=True)[1:])
        elif line.startswith("make "):
            _check_made(line.split()[1])
        for script, given in re.findall(r"(jobs/\w+\.\w+)(?: --)?(.*)", line):
            assert (ROOT / script).exists(), line
            command = re.search(r'run\("([\w-]+)"\)', (ROOT / script).read_text())
            name = command[1] if command else "run"  # that of jobs/slurm.sh
            _check_typed([name, *arguments(shlex.split(given.partition(";")[0].replace("...", "")))])
        for script in re.findall(r"\bpython (tests/[\w/.]+)", line):
            assert (ROOT / script).exists(), line


@each(PAGES)
def test_commands_in_words_exist(page):
    for name in re.findall(r"`harness ([a-z][\w-]*)", page.read_text()):
        assert name in main.commands, name
    for target in re.findall(r"`make ([\w-]+)`", page.read_text()):
        _check_made(target)


@each(PAGES)
def test_parts_of_a_study_are_right(page):
    """Those that no study file of a page holds, put into the quick study one after the other."""
    study = read("quick")
    study["attacks"]["fgsm"] = {"epsilon": ["8/255", 0.1, 0.2, 0.3]}
    for content in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if "use:" not in content:  # code that lies elsewhere
            part = yaml.safe_load(content)
            study = {**study, **part, "attacks": {**study["attacks"], **part.get("attacks", {})}}
            build(study)


def _typed(text: str) -> Iterator[str]:
    """Every command of a page's blocks, on one line."""
    for kind, content in FENCED.findall(text):
        joined = re.sub(r"\\\n(?:> )?\s*", " ", content)
        if kind == "bash":
            yield from filter(None, joined.splitlines())
        elif kind == "console":
            yield from re.findall(r"^\$ (.+)$", joined, re.MULTILINE)


def _check_typed(words: list[str]) -> None:
    """A command's options exist, it has the arguments that it needs; a preset takes its changes."""
    if words[0].startswith("-"):
        return
    command = main.commands[words[0]]
    given, left, _ = command.make_parser(click.Context(command)).parse_args(words[1:])
    assert not left, words
    needed = [each.name for each in command.params if isinstance(each, click.Argument) and each.required]
    assert all(isinstance(given.get(name), str) for name in needed), words
    if given.get("study") in presets():
        load(given["study"], tuple(given.get("overrides") or ()))


def _check_made(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("name", sorted(generated.GENERATED))
def test_a_generated_page_is_up_to_date(name):
    """Else: `make pages`."""
    assert (DOCS / name).read_text() == generated.GENERATED[name]()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert (DOCS / "images" / "report.png").stat().st_size < 200_000


# --- links, and the site ------------------------------------------------------------------------------------


@each(PAGES)
def test_links_lead_somewhere(page):
    for target, heading in _links(page):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not heading or heading in _headings(there.read_text()), f"{target}#{heading}"


@each([page for page in PAGES if page.parent == DOCS])
def test_links_of_a_page_stay_in_the_site(page):
    for target, _ in _links(page):
        assert (page.parent / target).resolve().is_relative_to(DOCS.resolve()), target


def test_every_page_is_in_the_site():
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["site_dir"] == "site"


def _links(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text())


def _headings(text: str) -> set[str]:
    """As links name them."""
    lines = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in lines}


# --- the reader of pages itself -----------------------------------------------------------------------------

PAGE = """
```python title="mine/a.py"
x = 1
```
words
```console
$ harness tables
>   --format md
Table II

base 12.5 [9.8, 15.8]
...
$ echo $?
1
```
```text
nothing
```
"""


def test_blocks_in_order():
    assert list(blocks(PAGE)) == [
        File("mine/a.py", "x = 1\n"),
        Command("harness tables\n  --format md", ("Table II", "", "base 12.5 [9.8, 15.8]", "...")),
        Command("echo $?", ("1",)),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        (("a 1.5 s", "b"), "a 12 s\nb\n", True),
        (("digest 0123456789abcdef",), "digest fedcba9876543210 \n", True),
        (("base  12.5", "────"), "base 7.25\n─────\n", True),
        (("a", "...", "c"), "a\nb\nb\nc\n", True),
        (("a", "...", "c"), "a\nc\n", True),
        (("a", "c"), "a\nb\nc\n", False),
        (("a", "...", "d"), "a\nb\nc\n", False),
        (("3 cells made",), "4 cells made\n", False),
        (("a",), "a\nb\n", False),
        ((), "", True),
        ((), "a\n", False),
    ],
)
def test_what_is_as_shown(shown, printed, is_same):
    assert fits(shown, printed) is is_same


def test_commands_are_run_where_the_reader_is(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    code, printed = pages.call("harness show mine.yaml", tmp_path)
    assert code == 2 and printed.startswith("error: the study has"), printed
    assert pages.call("echo hello && exit 3", tmp_path) == (3, "hello\n")
