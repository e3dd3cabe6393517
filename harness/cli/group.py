"""The group of all commands: how mistakes are shown, and how a command ends when it is told to stop."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from harness.errors import HarnessError, StartAgain


class _Group(click.Group):
    """Shows a HarnessError as one message, exit code 2, nothing lost; lists commands in the order of work."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, context: click.Context) -> Any:
        try:
            _take_signals()
            return super().invoke(context)
        except StartAgain as error:
            complain(f"[bold]starting again:[/] {plain(str(error))}")
            _start_again()
        except HarnessError as error:
            complain(f"[bold red]error:[/] {plain(str(error))}")
            context.exit(2)
        except KeyboardInterrupt:
            complain("stopped: what is finished stays; the same command goes on from there")
            context.exit(128 + (_caught[-1] if _caught else signal.SIGINT))


_ENDING = {signal.SIGINT, signal.SIGTERM}
_caught: list[int] = []  # signals


def _start_again() -> NoReturn:
    """Be a new process with the same command. A signal waits until that one can be told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _take_signals() -> None:
    """What ``_start_again`` keeps waiting may come."""
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        end_on_sigterm()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def end_on_sigterm() -> None:
    """From here on SIGTERM, which batch systems send, ends this process as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: Any) -> None:
    """Raise what Ctrl-C raises: of what a handler can raise, Ray's calls hand only that on as it is."""
    _caught.append(number)
    raise KeyboardInterrupt


def complain(words: str) -> None:
    """Print rich's markup to stderr, no line of it broken."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(words, highlight=False)


def plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="harness")
def main() -> None:
    """Visual imperceptible bounds: compute them, attack, defend and compare, on one machine or a cluster.

    Start with `harness run quick`.
    """
