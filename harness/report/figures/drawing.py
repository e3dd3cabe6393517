"""How figures look, and how they become text: one style, for a page on a screen and for a paper."""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from harness.report.recorded import Row

COLUMN, PAGE = 3.4, 7.0  # inches: the width of a paper's column, and of its page
HEIGHT = 2.6  # inches, without what a long legend takes beside it
_MARGIN = 0.1  # inches above and below a legend
_WIDE = 5.0  # inches from which on a legend has room beside the axes
# Okabe and Ito's colours, which the colour-blind tell apart, but for yellow, too light for lines; each with a
# marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.")
_BELOW: dict[str, Any] = {"fontsize": 6, "columnspacing": 1.0, "handlelength": 2.4, "borderaxespad": 0.2}
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "figure.constrained_layout.use": True,
    # Bytes that repeat, and text that is text.
    "svg.hashsalt": "harness",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

Kind = Literal["png", "svg", "pdf"]


@dataclass(frozen=True)
class Drawing:
    """A figure of one study: ``caption`` says what is seen, for those who can't see it as well."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Plot:
    """How the rows of an SQL view become figures; ``draw`` gets a study's row and the rows that are its."""

    source: str
    draw: Callable[[Row, list[Row]], Iterable[Drawing]]


@contextmanager
def style(width: float = PAGE) -> Iterator[None]:
    """Everything that is drawn or written within it looks alike; figures are so many inches wide."""
    own = {**_STYLE, "figure.figsize": (width, HEIGHT)}
    with matplotlib.rc_context(own):  # type: ignore[arg-type]  # names by a type of 300
        yield


def panel() -> tuple[Figure, Axes]:
    """A figure with one pair of axes, as wide as the style says."""
    figure = Figure()
    axes = figure.add_subplot()
    if not _is_wide(figure):
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def lines(axes: Axes, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """(label, x, y) each a line that can be told from the others without its colour."""
    for position, (label, x, y) in enumerate(curves):
        look = position % len(COLOURS)
        axes.plot(
            x,
            y,
            color=COLOURS[look],
            marker=MARKERS[look],
            linestyle=DASHES[position // len(COLOURS) % len(DASHES)],
            markevery=max(1, len(x) // 8),
            label=label,
        )


def steps(axes: Axes, position: int, label: str, heights: Sequence[float], edges: Sequence[float]) -> None:
    """The outline of a histogram, the figure's ``position``-th."""
    colour, dash = COLOURS[position % len(COLOURS)], DASHES[position % len(DASHES)]
    axes.stairs(heights, edges, color=colour, linestyle=dash, label=label)


def legend_beside(axes: Axes) -> None:
    """To the right, where it hides nothing, or below a narrow figure; the figure grows with it."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    if _is_wide(figure):
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        figure.set_figheight(max(HEIGHT, _size(figure, legend)[1] + 2 * _MARGIN))
        return
    for columns in (3, 2, 1):
        legend = figure.legend(loc="outside lower center", ncols=columns, **_BELOW)
        width, height = _size(figure, legend)
        if width <= figure.get_figwidth() or columns == 1:
            figure.set_figheight(HEIGHT + height)
            return
        legend.remove()


def _is_wide(figure: Figure) -> bool:
    return bool(figure.get_figwidth() >= _WIDE)


def _size(figure: Figure, legend: Legend) -> tuple[float, float]:
    """Width and height in inches."""
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    return box.width / figure.dpi, box.height / figure.dpi


def svg(drawing: Drawing) -> str:
    """An element for a page: its text can be selected, black follows the page's colour, bytes repeat."""
    body = _svg(drawing, transparent=True)
    body = re.sub(r"#000000|#000\b|\bblack\b", "currentColor", body[body.index("<svg") :])
    # Text has no colour of its own in the file: it would be black on a dark page.
    label = f'role="img" aria-label="{drawing.title}" fill="currentColor"'
    return body.replace("<svg ", f"<svg {label} ", 1)


def _svg(drawing: Drawing, transparent: bool) -> str:
    """A file's text whose bytes repeat."""
    text = io.StringIO()
    with style():
        drawing.figure.savefig(text, format="svg", transparent=transparent, metadata={"Date": None})
    body = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return _renamed(body, drawing.name)


def _renamed(body: str, name: str) -> str:
    """Its elements by their places: they are named after addresses in memory, and alike in all figures."""
    names = dict.fromkeys(re.findall(r'id="([^"]*)"', body))
    places = {old: f"{name}-{place}" for place, old in enumerate(names)}
    return re.sub(r'(?<=id=")[^"]*|(?<=url\(#)[^)]*|(?<=href="#)[^"]*', lambda old: places[old[0]], body)


def save(drawing: Drawing, folder: Path, kind: Kind) -> Path:
    """Write a file for a paper, its bytes the same every time; its path."""
    path = folder / f"{drawing.name}.{kind}"
    if kind == "svg":
        path.write_text(_svg(drawing, transparent=False), encoding="utf-8")
        return path
    stamp = {"png": "Software", "pdf": "CreationDate"}[kind]
    with style():
        drawing.figure.savefig(path, format=kind, dpi=300, metadata={stamp: None})
    return path
