"""What a user sees of a running study, on a terminal and in a log file."""

import io

from rich.console import Console

from harness.progress import Display


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
