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
from matplotlib.figure import Figure

from harness.report.recorded import Row

COLUMN, PAGE = 3.4, 7.0  # inches: the width of a paper's column, and of its page
# Okabe and Ito's colours, which the colour-blind tell apart, but for yellow, too light for lines; each with a
# marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.")
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
def style() -> Iterator[None]:
    """Everything that is drawn within it looks alike."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # names by a type of 300
        yield


def panel(width: float = PAGE, height: float = 2.6) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


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
    """To the right, where it hides nothing."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def svg(drawing: Drawing) -> str:
    """An element for a page: its text can be selected, black follows the page's colour, bytes repeat."""
    text = io.StringIO()
    drawing.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    body = text.getvalue()[text.getvalue().index("<svg") :]
    body = re.sub(r"#000000|#000\b|\bblack\b", "currentColor", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _renamed(body, drawing.name)
    label = f'role="img" aria-label="{drawing.title}"'
    return body.replace("<svg ", f"<svg {label} ", 1)


def _renamed(body: str, name: str) -> str:
    """Its elements by their places: they are named after addresses in memory, and alike in all figures."""
    names = dict.fromkeys(re.findall(r'id="([^"]*)"', body))
    places = {old: f"{name}-{place}" for place, old in enumerate(names)}
    return re.sub(r'(?<=id=")[^"]*|(?<=url\(#)[^)]*|(?<=href="#)[^"]*', lambda old: places[old[0]], body)


def save(drawing: Drawing, folder: Path, kind: Literal["png", "svg", "pdf"]) -> Path:
    """Write a file for a paper; its path."""
    path = folder / f"{drawing.name}.{kind}"
    stamp = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}[kind]
    drawing.figure.savefig(path, format=kind, dpi=300, metadata={stamp: None})
    return path
