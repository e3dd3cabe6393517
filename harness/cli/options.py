"""The options that several commands take, each written once, and what they name."""

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.results.store import Store

DEFAULT_RESULTS = "results"

results_option = click.option(
    "--results",
    default=DEFAULT_RESULTS,
    envvar="HARNESS_RESULTS",
    show_default=True,
    show_envvar=True,
    help="Folder of the results, or s3://BUCKET/PREFIX.",
)
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change a setting, e.g. defenses.imperceptible_bound.k=[1,2]. May be repeated.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    envvar="HARNESS_DATA",
    show_envvar=True,
    help="Folder of the data sets.",
)
tracking_option = click.option(
    "--tracking-uri",
    "uri",
    default=None,
    envvar="HARNESS_TRACKING_URI",
    show_envvar=True,
    metavar="URI",
    help="MLflow server (http://HOST:PORT) or sqlite:///FILE that gets the runs.  "
    "[default: mlflow.db beside the results]",
)
format_option = click.option(
    "--format", "kind", type=click.Choice(["rich", "md", "csv"]), default="rich", show_default=True
)
study_option = click.option(
    "--study", default=None, help="Only this study's results.  [default: the one run last]"
)


def _find_packages(context: click.Context, parameter: click.Parameter, folders: tuple[Path, ...]) -> None:
    if folders:
        from harness import extensions

        extensions.code_folder(folders)


# Takes effect as it is read, before any command looks at its study.
code_option = click.option(
    "--code",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="HARNESS_CODE",
    show_envvar=True,
    expose_value=False,
    callback=_find_packages,
    help="Folder of packages that are not installed, for a study that uses some. May be repeated.",
)
_workers_option = click.option(
    "--workers", type=int, default=None, help="Shards at once (compute.workers); 0 runs without Ray."
)


@dataclass(frozen=True)
class RunOptions:
    """What a command that runs steps was given: a study, changes of its settings, data, where results go."""

    study: str
    overrides: tuple[str, ...]
    data: Path | None
    workers: int | None
    results: str
    uri: str | None

    @property
    def changes(self) -> tuple[str, ...]:
        """The changed settings, A.B=VALUE; an option of its own comes after --set, which it overrules."""
        workers = () if self.workers is None else (f"compute.workers={self.workers}",)
        return (*self.overrides, *workers)


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """STUDY and the options of whatever runs steps, handed on as one value; a command's own beside it."""

    @click.argument("study")
    @overrides_option
    @code_option
    @data_option
    @_workers_option
    @results_option
    @tracking_option
    @functools.wraps(function)
    def wrapped(**arguments: Any) -> None:
        shared = {field.name: arguments.pop(field.name) for field in fields(RunOptions)}
        function(RunOptions(**shared), **arguments)

    return wrapped


def typed_results(results: str) -> str:
    """The option as it is to be typed again, a space before it; nothing for the default."""
    return "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(results)}"


def existing_store(results: str) -> "Store":
    """The results that an option names; HarnessError unless there are some, of this version."""
    from harness.results.store import Store

    store = Store(results)
    store.check_version()
    return store


def latest(store: "Store") -> str:
    """The study that was run last; HarnessError where there is none."""
    studies = list(store.studies())
    if not studies:
        raise HarnessError(f"'{store.folder}' holds no study: run one with `harness run quick`")
    return studies[-1]
