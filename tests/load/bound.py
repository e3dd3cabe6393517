"""The bound of 200,000 generated images, read from Parquet and spread over two workers: time, memory, and
whether it is right.

    python tests/load/bound.py [--images N]

A sample of the distances is compared with those of all pairs.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from memory import watch
from PIL import Image

SIZE, CLASSES, SHARDS, CHECKED = 16, 10, 4, 40


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=200_000)
    count = arguments.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        pixels, labels = generate(count)
        for shard in range(SHARDS):
            write(
                Path(folder, f"train-{shard:05}-of-{SHARDS:05}.parquet"),
                pixels[shard::SHARDS],
                labels[shard::SHARDS],
            )
        order = np.concatenate([np.arange(count)[shard::SHARDS] for shard in range(SHARDS)])
        write(Path(folder, "test.parquet"), *generate(1000, seed=1))
        study, results = Path(folder, "load.yaml"), Path(folder, "results")
        study.write_text(
            yaml.safe_dump(
                {
                    "name": "load",
                    "dataset": {"source": "parquet", "folder": folder, "name": "generated"},
                    "base": {"epochs": 1},
                    "network": {"architecture": "convnet"},
                    "attacks": {"fgsm": {"epsilon": [0.1]}},
                    "controls": False,
                    "white_box": {"epsilon": [0.1]},
                }
            )
        )
        samples = list(
            watch(
                [
                    sys.executable,
                    "-m",
                    "harness.cli",
                    "bound",
                    str(study),
                    "--results",
                    str(results),
                    "--workers",
                    "2",
                ],
                results,
            )
        )
        parts = ("driver", "workers", "ray", "total")
        print(f"{count} images of {SIZE} x {SIZE}: {samples[-1].seconds:.0f} s")
        print(
            "peak MB: "
            + ", ".join(f"{part} {max(getattr(sample, part) for sample in samples):.0f}" for part in parts)
        )
        (found,) = (results / "bound/dataset=generated/split=train").glob("*.parquet")
        wrong = check(pq.ParquetFile(found).read(), pixels[order], labels[order])
    print(f"{2 * CHECKED} distances compared with all pairs: {wrong} differ")
    sys.exit(wrong > 0)


def generate(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, SIZE, SIZE] and labels: a few smooth strokes a class, mixed, moved and a little noisy."""
    random = np.random.default_rng(seed)
    strokes = np.random.default_rng(42).random((CLASSES, 6, SIZE, SIZE)) ** 4
    for _ in range(3):  # blurred, so that neighbouring pixels are alike, as in pictures
        strokes = (
            strokes
            + np.roll(strokes, 1, 2)
            + np.roll(strokes, 1, 3)
            + np.roll(strokes, -1, 2)
            + np.roll(strokes, -1, 3)
        ) / 5
    labels = random.integers(0, CLASSES, count)
    pixels = np.empty((count, SIZE, SIZE), np.uint8)
    for start in range(0, count, 10_000):
        chosen = labels[start : start + 10_000]
        weights = random.dirichlet(np.full(6, 0.5), len(chosen))
        mixed = np.einsum("iw,iwyx->iyx", weights, strokes[chosen]) * 700 + random.normal(
            0, 4, (len(chosen), SIZE, SIZE)
        )
        pixels[start : start + 10_000] = np.clip(mixed, 0, 255)
    return pixels, labels


def write(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    def encoded(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "BMP")
        return buffer.getvalue()

    pq.write_table(pa.table({"image": pa.array([encoded(image) for image in pixels]), "label": labels}), path)


def check(bound: pa.Table, pixels: np.ndarray, labels: np.ndarray) -> int:
    """How many of a sample's distances differ from the smallest over all pairs."""
    flat, wrong = pixels.reshape(len(pixels), -1), 0
    rows = {(row["image_id"], row["neighbours"]): row for row in bound.to_pylist()}
    for image in np.random.default_rng(0).choice(len(pixels), CHECKED, replace=False).tolist():
        distance = np.abs(flat.astype(np.int16) - flat[image]).sum(axis=1, dtype=np.int64) / (
            255 * flat.shape[1]
        )
        others = {"other_class": labels != labels[image], "any_class": np.arange(len(labels)) != image}
        wrong += sum(
            abs(rows[image, kind]["distance"] - distance[which].min()) > 1e-12
            for kind, which in others.items()
        )
    return wrong


if __name__ == "__main__":
    main()
