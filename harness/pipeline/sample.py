"""Names of the classes, and pictures of some test images: results can be looked at without the data."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from harness.data.datasets import Dataset, Images
from harness.data.encoded import png
from harness.data.source import evenly
from harness.pipeline.run import by_column

KINDS = ("other_class", "any_class")  # of neighbours


def sample_rows(dataset: Dataset, bound: pa.Table, count: int, neighbours: str) -> dict[str, Any]:
    """Rows of the table ``sample``: ``count`` test images at most, spread evenly over the ranks of sigma.

    ``bound``: the rows of the test images' bound, and ``neighbours`` the kind of which sigma is. Nothing is
    drawn: images of equal sigma are ranked by their ids. Three rows an image: itself, and a row a kind.
    """
    found = {(row["neighbours"], row["image_id"]): row for row in bound.to_pylist()}
    ranked = sorted((row["distance"], image) for (kind, image), row in found.items() if kind == neighbours)
    chosen = [ranked[rank][1] for rank in evenly(len(ranked), count)]
    rows: list[dict[str, Any]] = []
    for image, itself in zip(chosen, _of_ids(dataset.test, chosen), strict=True):
        rows.append({"image_id": image, "picture": "image", "distance": 0.0, **_picture(itself)})
    for kind in KINDS:
        nearest = [found[kind, image] for image in chosen]
        training = _of_ids(dataset.train, [row["neighbour_id"] for row in nearest])
        for row, neighbour in zip(nearest, training, strict=True):
            named = {"image_id": row["image_id"], "picture": kind, "distance": row["distance"]}
            rows.append({**named, **_picture(neighbour)})
    return by_column(rows)


def _of_ids(images: Images, ids: Iterable[int]) -> Iterator[Images]:
    """One image each, in the order of ``ids``."""
    for position in np.searchsorted(images.ids, np.fromiter(ids, np.int64)):
        yield images.take(slice(position, position + 1))


def _picture(image: Images) -> dict[str, Any]:
    """What a row holds of the one image that is shown in it."""
    (pixels,) = image.pixels
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    label, picture = int(image.labels[0]), int(image.ids[0])
    return {"picture_id": picture, "label": label, "pixels": digest, "png": png(pixels)}


def class_rows(dataset: Dataset) -> dict[str, Any]:
    """Rows of the table ``classes``."""
    return {"label": list(range(len(dataset.classes))), "class_name": list(dataset.classes)}
