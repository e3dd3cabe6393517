"""What a user sees of a running study, on a terminal and in a log file."""

import io

import pytest
from rich.console import Console

from harness.cli.progress import Display


def shown(terminal):
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=terminal, width=100)) as display:
        display.begin("bound", 4, "blocks", 1)
        display.advance("bound", 3, "half way")
        display.advance("bound")
        display.end("bound")
        display.begin("attack", 0, "images", 9)
        display.end("attack")
    return text.getvalue()


def test_a_log_file_gets_a_line_a_step():
    assert shown(False).splitlines() == [
        "bound        4 blocks to do, 1 cells were there",
        "attack       nothing to do, 9 cells were there",
    ]


def test_a_terminal_gets_bars():
    text = shown(True)
    assert "4/4" in text
    assert "half way" in text
    assert "9 cells were there" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_keeps_the_numbers_and_cuts_the_note(width):
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=width, color_system=None)) as display:
        display.begin("base-network", 2_000_000, "images", 0)
        display.advance("base-network", 1_000_000, "a note [k=2] " + "that is long " * 20)
    last = next(line for line in reversed(text.getvalue().splitlines()) if "base-network" in line)
    last = last[last.index("base-network") :]
    assert last.startswith("base-network ") and "1000000/2000000 images 0:00:0" in last
    assert len(last) <= width and "\u2026" in last
    assert ("a note [k=2]" in last) == (width >= 80)


def test_five_hundred_cells_are_a_few_lines_of_a_log_file():
    text = io.StringIO()
    with Display(Console(file=text, width=80)) as display:
        display.begin("black-box", 500, "cells", 0)
        for number in range(500):
            display.advance("black-box", 1, f"cell {number} [x]")
        display.end("black-box")
    assert len(text.getvalue().splitlines()) <= 2
