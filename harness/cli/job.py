"""A command of the harness, started by a script in jobs/."""

import sys

from harness.cli import main


def run(command: str) -> None:
    """`harness COMMAND` with this process's arguments."""
    main([command, *arguments(sys.argv[1:])])


def arguments(given: list[str]) -> list[str]:
    """A job's arguments as they were typed, the study's name with or without ``--study``.

    `ray submit` joins arguments with spaces and the shell over there parts them anew, so that --set
    "defenses.imperceptible_bound.k=[1, 2]" arrives as two. What follows --set belongs together until its
    brackets are closed.
    """
    whole: list[str] = []
    pending = False  # whether the last one is a --set's and has brackets open
    for argument in given:
        if pending:
            whole[-1] += f" {argument}"
        elif argument == "--study":
            continue
        else:
            whole.append(argument.removeprefix("--study="))
        follows = whole[-1].startswith("--set=") or whole[-2:-1] == ["--set"]
        pending = follows and sum(map(whole[-1].count, "[{")) > sum(map(whole[-1].count, "]}"))
    return whole
