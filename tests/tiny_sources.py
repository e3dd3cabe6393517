"""Tiny sources of every kind, made from small arrays, and what every loaded data set must be like."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.data.datasets import Dataset
from harness.data.subset import DatasetSpec


def spec(source: str, **settings: Any) -> DatasetSpec:
    return DatasetSpec(source=source, **settings)  # type: ignore[arg-type]


def encoded(
    value: int | tuple[int, ...], size: tuple[int, int] = (4, 4), mode: str = "RGB", kind: str = "PNG"
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, kind)
    return buffer.getvalue()


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        + values.astype(np.uint8).tobytes()
    )


def write_mnist(
    data: Path, labels: tuple[list[int], list[int]], name: str = "MNIST", size: tuple[int, int] = (5, 5)
) -> Path:
    """Image i of a split has the value i in every pixel."""
    raw = data / name / "raw"
    raw.mkdir(parents=True)
    for split, values, (height, width) in zip(("train", "t10k"), labels, ((5, 5), size), strict=True):
        pixels = np.broadcast_to(np.arange(len(values))[:, None, None], (len(values), height, width))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.array(values)))
    return data


def write_zip(data: Path, extra: dict[str, bytes] | None = None, **members: bytes) -> Path:
    """Three classes with four training and two validation images each; one training image is grey."""
    root, wnids = "tiny-imagenet-200", ("n03", "n01", "n02")
    files = {f"{root}/words.txt": b"n01\tcrane, wading bird\nn02\tdog\nn99\tnothing\n"}
    annotations = []
    for number, wnid in enumerate(wnids):
        files[f"{root}/train/{wnid}/{wnid}_boxes.txt"] = b""
        for image in range(4):
            grey = number == 0 and image == 0
            colour: int | tuple[int, ...] = 90 if grey else (10 * number, 20 * image, 50)
            files[f"{root}/train/{wnid}/images/{wnid}_{image}.JPEG"] = encoded(
                colour, mode="L" if grey else "RGB", kind="JPEG"
            )
        for image in range(2):
            name = f"val_{2 * number + image}.JPEG"
            files[f"{root}/val/images/{name}"] = encoded((10 * number, 0, 200), kind="JPEG")
            annotations.append(f"{name}\t{wnid}\t0\t0\t3\t3")
    files[f"{root}/val/val_annotations.txt"] = "\n".join(annotations).encode()
    files.update(extra or {})
    path = data / f"{root}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_parquet(
    path: Path,
    images: list[bytes | None],
    labels: list[Any],
    column: str = "label",
    names: list[str] | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array([{"bytes": b, "path": "x.png"} for b in images]), column: labels})
    if names:
        info = {
            "info": {
                "features": {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
            }
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)


def parquet(data: Path, train: list[Any], test: list[Any], images: Any = None, **more: Any) -> DatasetSpec:
    """Image i of a split is of the colour (i, label, 7)."""
    for split, labels in (("train", train), ("test", test)):
        made = (
            [encoded((i, abs(label) % 256, 7)) for i, label in enumerate(labels)]
            if images is None
            else images[split]
        )
        write_parquet(data / "set" / f"{split}.parquet", made, labels, **more)
    return spec("parquet", folder="set")


def assert_sound(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        assert split.pixels.dtype == np.uint8 and split.pixels.flags.c_contiguous and split.pixels.ndim == 4
        assert split.labels.dtype == np.int64 and split.ids.dtype == np.int64
        assert len(split.pixels) == len(split.labels) == len(split.ids)
        assert (np.diff(split.ids) > 0).all()
        assert set(split.labels.tolist()) <= set(range(len(dataset.classes)))
    assert dataset.train.pixels.shape[1:] == dataset.test.pixels.shape[1:]


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(getattr(one, field), getattr(other, field)) for field in ("pixels", "labels", "ids")
    )
