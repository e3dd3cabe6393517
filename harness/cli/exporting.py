"""Commands that hand results to other programs: images and tables as files, figures for a paper."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import existing_store, latest, results_option
from harness.errors import HarnessError, did_you_mean

if TYPE_CHECKING:
    from harness.report.figures.drawing import Drawing
    from harness.results.store import Store

KINDS = ("png", "svg", "pdf")
_out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder, made where there is none. Files of the same name are replaced.",
)


def _kinds(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """'png,pdf' taken apart; each is one of `KINDS`."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise HarnessError(f"--format: expected some of {', '.join(KINDS)}, got '{kind}'")
    return kinds


@click.command()
@click.argument("study", required=False)
@_out_option
@results_option
def export(study: str | None, out: Path, results: str) -> None:
    """STUDY's adversarial images as .pt files, its tables and views as JSON.  [default: the study run last]

    Each .pt is a dict as AutoAttack saves it: adv_complete, float32 [N, C, H, W] in [0, 1]; beside it labels
    and ids, int64 [N]. images.json says what each file is.
    """
    from harness.report.database import connect
    from harness.report.export import documents

    store = existing_store(results)
    study = study or latest(store)
    records = store.studies()
    if study not in records:
        raise HarnessError(f"no study '{study}' in '{store.folder}'{did_you_mean(study, records)}")
    with writing(out), connect(store, study) as connection:
        written = [_write(out / path, content) for path, content in documents(connection)]
        files = _write_images(store, records[study], out)
    click.echo(f"{out}: {len(files)} files of images, {len(written)} of tables and views")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """The folder ``out``, made where there is none; HarnessError where it can't be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise HarnessError(f"'{out}' cannot be written: {error.strerror or error}") from error


def _write_images(store: "Store", record: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Write the .pt files and their list; the list."""
    import torch

    from harness.report.export import adversarial

    listed = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for each in adversarial(store, record):
        tensors = {"adv_complete": each.images, "labels": each.labels, "ids": each.ids}
        file = f"images/{each.name}.pt"
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, out / file)
        listed.append({"file": file, "shape": each.images.shape, **each.about})
    _write(out / "images.json", listed)
    return listed


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return path


@click.command()
@click.argument("studies", nargs=-1)
@_out_option
@click.option(
    "--format",
    "kinds",
    default="png,svg,pdf",
    show_default=True,
    callback=_kinds,
    help="Files of each figure, separated by commas.",
)
@click.option(
    "--width",
    type=click.Choice(["column", "page"]),
    default="page",
    show_default=True,
    help="That of a paper's column or page: 3.4 or 7 inches.",
)
@results_option
def figures(studies: tuple[str, ...], out: Path, kinds: tuple[Any, ...], width: str, results: str) -> None:
    """The figures of STUDIES, all unless some are named, for a paper: a folder for each study.

    captions.md beside them says what each shows.
    """
    from harness.report.database import connect, query
    from harness.report.figures import FIGURES, drawn
    from harness.report.figures.drawing import COLUMN, PAGE

    store = existing_store(results)
    inches = {"column": COLUMN, "page": PAGE}[width]
    count = 0
    for name in studies or store.studies():
        with connect(store, name) as connection, writing(out / name):
            (row,) = query(connection, "from studies").to_pylist()
            made = [drawing for figure in FIGURES for drawing in drawn(connection, row, figure, inches)]
            _save(made, out / name, kinds)
            count += len(made)
    if not studies:
        with connect(store) as connection, writing(out):
            made = list(drawn(connection, {}, "complexity", inches))  # it takes studies of several sizes
            _save(made, out, kinds)
            count += len(made)
    click.echo(f"{out}: {count} figures as {', '.join(kinds)}")


def _save(drawings: "Sequence[Drawing]", folder: Path, kinds: tuple[Any, ...]) -> None:
    from harness.report.figures.drawing import save

    for drawing in drawings:
        for kind in kinds:
            save(drawing, folder, kind)
    if not drawings:
        return
    captions = [f"## {each.title}\n\n`{each.name}`: {each.caption}\n" for each in drawings]
    (folder / "captions.md").write_text("\n".join(captions), encoding="utf-8")
