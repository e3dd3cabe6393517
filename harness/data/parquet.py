"""Image classification data sets as the Hugging Face library writes them: Parquet files of encoded images.

A split is one file, ``train.parquet``, or shards, ``train-00000-of-00002.parquet``; ``validation`` stands
in for ``test``. Nothing is read with Arrow's threads: one of them that still holds memory of Python's when
the program ends would abort it.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.data.encoded import BLOCK, GREY_MODES, decode, image_header
from harness.data.source import Source, Split, Splits, first_few, reading
from harness.errors import HarnessError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class _OpenFile:
    """A Parquet file that is open, and the names of its two columns that matter."""

    content: Any  # pyarrow.parquet.ParquetFile
    image: str
    label: str


# --- files ----------------------------------------------------------------------------------------


def _locate(folder: Path) -> list[Path]:
    """All files of the training split, then all of the test split."""
    train = _shards(folder, "train") or [folder / "train.parquet"]
    test = _shards(folder, "test") or _shards(folder, "validation") or [folder / "test.parquet"]
    return train + test


def _shards(folder: Path, split: str) -> list[Path]:
    """``split.parquet``, else all ``split-*.parquet`` by name."""
    whole = folder / f"{split}.parquet"
    if whole.is_file():
        return [whole]
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    total = re.search(r"-of-(\d+)", shards[0].name) if shards else None
    if total and int(total[1]) != len(shards):
        raise HarnessError(
            f"{folder}: expected {int(total[1])} files {split}-*.parquet, as their names say,"
            f" got {len(shards)}"
        )
    return shards


# --- labels and pixels ----------------------------------------------------------------------------


def _open(files: list[Path]) -> Splits:
    """Ids are rows, counted over all shards of a split."""
    train_files = [path for path in files if path.name.startswith("train")]
    test_files = files[len(train_files) :]
    # Over all images, so that no limit changes a pixel.
    mode = "RGB" if _has_colour(files) else "L"
    train, test = _split(train_files, mode), _split(test_files, mode)
    names, others = _class_names(train_files[0]), _class_names(test_files[0])
    if names and others and names != others:
        raise HarnessError(
            f"{test_files[0]}: expected the class names of {train_files[0].name},"
            f" got others: {first_few(others)}"
        )
    if names:
        return Splits(dict(enumerate(names)), train, test)
    return Splits({label: str(label) for label in train.labels.tolist()}, train, test)


def _has_colour(files: list[Path]) -> bool:
    """Whether any image has; in a set with colour the first image ends the search."""
    return any(image_header(place, image).mode not in GREY_MODES for place, image in _images(files))


def _split(files: list[Path], mode: str) -> Split:
    labels = np.concatenate([_labels(path) for path in files])

    def read(ids: np.ndarray) -> np.ndarray:
        return decode(_images(files, ids), len(ids), mode)

    return Split(labels, np.arange(len(labels)), read)


def _labels(path: Path) -> np.ndarray:
    """int64, one for each row."""
    with _opened(path) as file, reading(path):
        labels = file.content.read(columns=[file.label], use_threads=False).column(0)
    if labels.null_count:
        raise HarnessError(f"{path}: expected a label in every row, got none in {labels.null_count}")
    return cast(np.ndarray, labels.to_numpy().astype(np.int64))


def _class_names(path: Path) -> list[str] | None:
    """Class names from the schema's metadata, where the Hugging Face library wrote them."""
    with _opened(path) as file:
        try:
            written = json.loads(file.content.schema_arrow.metadata[b"huggingface"])
            return [str(name) for name in written["info"]["features"][file.label]["names"]]
        except (KeyError, TypeError, ValueError):
            return None  # written by something else, or labels that are plain numbers


def _images(files: list[Path], ids: np.ndarray | None = None) -> Iterator[tuple[str, bytes | None]]:
    """Encoded images, each with its place: of the rows ``ids`` (ascending, over all files), or of all."""
    start = 0  # the block's first row, over all files
    for path in files:
        first = start
        with _opened(path) as file, reading(path):
            for block in file.content.iter_batches(BLOCK, columns=[file.image], use_threads=False):
                for row in _rows(ids, start, start + len(block)):
                    yield f"{path}, row {row - first}", _content(block.column(0)[row - start].as_py())
                start += len(block)


def _rows(ids: np.ndarray | None, start: int, end: int) -> list[int]:
    """The wanted rows from ``start`` to before ``end``."""
    if ids is None:
        return list(range(start, end))
    within = slice(*np.searchsorted(ids, (start, end)))
    return cast(list[int], ids[within].tolist())


def _content(value: Any) -> bytes | None:
    """The encoded image of a cell: its bytes, or a struct that has them."""
    return value["bytes"] if isinstance(value, dict) else value


# --- columns --------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[_OpenFile]:
    """The file with its columns found; raises HarnessError where that is not possible."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path):
        content = pq.ParquetFile(path, pre_buffer=False)
    with content:
        image = _column(path, content.schema_arrow, "image", _is_image, _IMAGE_COLUMNS)
        label = _column(path, content.schema_arrow, "integer", pa.types.is_integer, _LABEL_COLUMNS)
        yield _OpenFile(content, image, label)


def _column(path: Path, schema: Any, kind: str, fits: Callable[[Any], bool], usual: tuple[str, ...]) -> str:
    """The column of one of the usual names whose type fits, else the only one whose type does."""
    fitting = [field.name for field in schema if fits(field.type)]
    known = [name for name in usual if name in fitting]
    if not known and len(fitting) != 1:
        came = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise HarnessError(
            f"{path}: expected one {kind} column ({' or '.join(usual)}, or the only one), got {came}"
        )
    return (known or fitting)[0]


def _is_image(kind: Any) -> bool:
    """Whether a column's type holds bytes, alone or as a struct's ``bytes``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


PARQUET = Source(
    files=("train.parquet", "test.parquet"),
    open=_open,
    locate=_locate,
    instead=" (or shards train-*.parquet, test-*.parquet)",
    in_folder=True,
)
