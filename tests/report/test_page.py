"""The page: the tables' own words, no network, and what a browser or a screen reader needs."""

import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from click.testing import CliRunner
from handmade import Study, fill

from harness.cli import main
from harness.report.database import connect
from harness.report.tables import laid_out
from harness.results import cells
from harness.results.store import Store

_WEIGHTS = (0.2126, 0.7152, 0.0722)  # of red, green and blue in luminance
_VOID = {"meta", "br", "input", "img", "link", "hr", "use", "path", "defs"}


class Reader(HTMLParser):
    """What is on a page: ids, what refers to them, cells' texts, and whether all that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.refers: set[str] = set()
        self.addresses: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids[found["id"]] += 1
        self.refers |= set(found.get("aria-labelledby", "").split())
        for name in ("href", "src", "xlink:href"):
            if found.get(name):
                self.addresses.add(found[name])
        if tag not in _VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += text


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("page") / "results").open()
    fill(store, Study())
    return store


def made(results: Store, path, *words: str) -> str:
    told = CliRunner().invoke(main, ["report", *words, "--results", results.root, "--out", str(path)])
    assert told.exit_code == 0, told.output
    return path.read_text()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> str:
    return made(results, tmp_path_factory.mktemp("out") / "report.html")


def test_the_page_is_whole(page):
    reader = Reader(page)
    assert reader.open == []
    assert [name for name, count in reader.ids.items() if count > 1] == []
    assert reader.refers <= reader.ids.keys()
    inner = {address for address in reader.addresses if address.startswith("#")}
    assert inner == reader.addresses, "nothing is fetched"
    assert {address[1:] for address in inner} <= reader.ids.keys()


def test_the_page_says_what_the_tables_say(page, results):
    found = Counter(Reader(page).cells)
    with connect(results) as connection:
        tables = laid_out(connection)
    assert tables
    for table in tables:
        for line in table.rows:
            assert not Counter(line) - found, (table.name, line)


def test_the_page_may_ask_for_nothing_and_is_small(page):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'")
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert len(page.encode()) < 500_000


def test_made_again_the_bytes_are_the_same(page, results, tmp_path):
    assert made(results, tmp_path / "again.html") == page


def test_figures_follow_the_pages_colours(page):
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert drawn and not any(re.search(r"#000|black", each) for each in drawn)
    assert all('role="img" aria-label="' in start for start in re.findall(r"<svg [^>]*>", page))


def test_a_study_that_is_not_there_is_a_mistake(results, tmp_path):
    told = CliRunner().invoke(
        main, ["report", "nowhere", "--results", results.root, "--out", str(tmp_path / "x.html")]
    )
    assert told.exit_code == 2 and "nowhere" in told.output and "Traceback" not in told.output
    assert not (tmp_path / "x.html").exists()


def test_a_copy_of_the_source_that_is_not_installed_makes_pages(results, tmp_path, monkeypatch):
    def missing(name: str) -> str:
        raise cells.PackageNotFoundError(name)

    monkeypatch.setattr(cells, "version", missing)
    assert "harness unknown" in made(results, tmp_path / "report.html")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_darkest_cell_of_the_heat_map_can_be_read(scheme):
    """WCAG 2.2, 1.4.3: text and ground have a contrast of at least 4.5."""
    style = (files("harness.report.page") / "page.css").read_text()
    named = dict(re.findall(r"--([\w-]+): ([^;}]+)", re.findall(r":root {(.*?)}", style)[scheme]))
    share = float(re.search(r"var\(--shade, 0\) \* (\.\d+)\)", style)[1])
    ground, text = (_channels(named[name].strip()) for name in ("ground", "text"))
    heat = [int(part) for part in named["heat"].split(",")]
    cell = [share * over + (1 - share) * under for over, under in zip(heat, ground, strict=True)]
    dark, light = sorted([_luminance(cell), _luminance(text)])
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def _channels(colour: str) -> list[int]:
    """#abc or #aabbcc as 0..255."""
    digits = colour.removeprefix("#")
    wide = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return [int(wide[place : place + 2], 16) for place in (0, 2, 4)]


def _luminance(channels: list[float]) -> float:
    """Relative luminance of sRGB, 0 to 1."""
    return sum(weight * _linear(value / 255) for weight, value in zip(_WEIGHTS, channels, strict=True))


def _linear(value: float) -> float:
    """A channel of sRGB, 0 to 1, without its gamma."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
