"""Figures for a paper: of the width asked for, nothing cut off or covered, the same bytes every time."""

import struct
from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from commands import call, refused
from handmade import BASE, Attack, Network, Study, bound_network, fill
from matplotlib.backends.backend_agg import FigureCanvasAgg
from measured import Measured, clean, write

from harness.report.database import connect, query
from harness.report.figures import FIGURES, drawn
from harness.report.figures.drawing import COLUMN, PAGE, style
from harness.results.store import Store

WIDTHS = {"column": COLUMN, "page": PAGE}
PGD = Attack("pgd", "PGD 0.1", "pgd", 0.1, 0.01)
MANY = (
    BASE,
    *(bound_network(k, n) for k in (1.0, 1.5, 2.0, 2.5, 3.0) for n in (10, 15, 20, 25)),
    Network("ensemble adversarial training epsilon=8/255 beta=6", "ensemble"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("figures") / "results").open()
    fill(store, Study())
    return store


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    """22 networks, one with a long name."""
    store = Store(tmp_path_factory.mktemp("many") / "results").open()
    rng = np.random.default_rng(0)
    measured = []
    for network in MANY:
        sizes = {"linf": rng.uniform(0, 0.1, 20)}
        measured += [clean(network, "1" * 20), Measured(network, PGD, "0" * 20, sizes)]
    write(store, measured, bound=[0.1] * 20)
    with connect(store) as connection:
        yield connection


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("width", WIDTHS)
def test_files_of_a_width(store, tmp_path, width):
    code, said = call("figures", "--width", width, "--out", tmp_path, "--results", store.root)
    assert code == 0 and said == f"{tmp_path}: 5 figures as png, svg, pdf\n"
    names = ("class_distance", "effectiveness", "grid", "magnitude", "robustness_linf")
    files = [f"{name}.{kind}" for name in names for kind in ("pdf", "png", "svg")]
    folder = tmp_path / "small"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["captions.md", *files])
    captions = (folder / "captions.md").read_text()
    for name in names:
        assert png_size((folder / f"{name}.png").read_bytes())[0] == round(WIDTHS[width] * 300)
        assert "<text" in (folder / f"{name}.svg").read_text()
        assert f"`{name}`: " in captions


def test_made_again_the_bytes_are_the_same(store, tmp_path):
    folders = [tmp_path / "first", tmp_path / "again"]
    for folder in folders:
        call("figures", "small", "--out", folder, "--results", store.root)
    for path in (folders[0] / "small").iterdir():
        assert path.read_bytes() == (folders[1] / "small" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("width", WIDTHS.values())
def test_nothing_is_cut_off_or_covered(store, many, width):
    with connect(store) as few:
        found = [(each, few) for each in FIGURES] + [("robustness", many)]
        for name, connection in found:
            (study,) = query(connection, "from studies").to_pylist()
            for drawing in drawn(connection, study, name, width):
                _check(drawing.figure, width)


def _check(figure, width) -> None:
    with style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        panels = [axes for axes in figure.axes if axes.get_visible()]
        legend = panels[0].get_legend() or figure.legends[0]
        for text in legend.get_texts():
            _is_inside(figure, text.get_window_extent(renderer))
        for axes in panels:
            _check_panel(figure, axes, legend.get_window_extent(renderer), renderer)
        assert figure.get_figwidth() == width


def _check_panel(figure, axes, legend, renderer) -> None:
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    shown = [tick.get_window_extent(renderer) for tick in ticks if tick.get_visible()]
    written = [label for label in (axes.xaxis.label, axes.yaxis.label) if label.get_text()]
    labels = [label.get_window_extent(renderer) for label in written]
    for extent in (*shown, *labels):
        _is_inside(figure, extent)
    assert not legend.overlaps(axes.get_window_extent(renderer))
    assert not any(map(legend.overlaps, labels))
    assert all(left.x1 < right.x0 for left, right in zip(shown, shown[1:], strict=False))
    assert len(axes.lines) + len(axes.patches) >= 1
    assert axes.get_window_extent(renderer).height > 100, "pixels of 100 an inch"


def _is_inside(figure, extent) -> None:
    page = figure.bbox
    assert extent.x0 >= 0 and extent.x1 <= page.x1 + 1, extent
    assert extent.y0 >= 0 and extent.y1 <= page.y1 + 1, extent


def test_one_format(store, tmp_path):
    code, said = call("figures", "--format", "svg", "--out", tmp_path, "--results", store.root)
    assert code == 0 and {path.suffix for path in (tmp_path / "small").iterdir()} == {".svg", ".md"}


def test_mistakes(store, tmp_path):
    options = ("--out", tmp_path / "x", "--results", store.root)
    assert "expected some of png, svg, pdf, got 'jpg'" in refused("figures", "--format", "png,jpg", *options)
    assert "no study 'smal'" in refused("figures", "smal", *options)
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    said = refused("figures", "--out", tmp_path / "file" / "x", "--results", store.root)
    assert "cannot be written" in said
