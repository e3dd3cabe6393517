"""The pages of docs/: whoever does what they say, outside the checkout, sees what they show."""

import ast
import re

import pages
import pytest
from pages import ROOT, Command, File, blocks, fits, follow

DOCS = ROOT / "docs"
PAGES = ("your-network", "your-attack", "your-defense", "your-model", "your-data")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_shows(name, tmp_path):
    seen = list(follow((DOCS / f"{name}.md").read_text(), tmp_path))
    assert any(command.line.startswith("harness run") for command, _, _ in seen)
    following = [command for command, _, _ in seen[1:]] + [None]
    for (command, code, printed), after in zip(seen, following, strict=True):
        assert fits(command.shown, printed), f"{command}\n{printed}"
        told = after is not None and after.line == "echo $?"
        assert code == 0 or told, f"{command}\n{printed}"


@pytest.mark.parametrize("name", PAGES)
def test_an_example_is_short(name):
    """Under 40 lines of code and settings, comments and blanks left out."""
    text = (DOCS / f"{name}.md").read_text()
    files = {block.path: block.content for block in blocks(text) if isinstance(block, File)}
    lines = [line for content in files.values() for line in content.splitlines()]
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert 0 < len(code) < 40
    for path, content in files.items():
        if path.endswith(".py"):
            ast.parse(content)


@pytest.mark.parametrize("name", sorted(page.stem for page in DOCS.glob("*.md")))
def test_links_lead_somewhere(name):
    for target, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", (DOCS / f"{name}.md").read_text()):
        page = DOCS / (target or f"{name}.md")
        assert page.exists(), target
        assert not heading or heading in _headings(page.read_text()), f"{target}#{heading}"


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
