"""Commands that hand results to other programs: images and tables as files, figures for a paper."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import existing_store, latest, results_option
from harness.errors import HarnessError, did_you_mean

if TYPE_CHECKING:
    from harness.results.store import Store

_out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder, made where there is none. Files of the same name are replaced.",
)


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
    with writing(out), connect(store, study, settled=True) as connection:
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
