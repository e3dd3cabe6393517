"""What must be the same after any fault: which cells there are, their values bit by bit, and that they were
written once.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.pipeline.steps import ALL_STEPS

TIMED = (
    "attack_s",
    "epoch_s",
    "images_per_s",
    "peak_share",
    "device",
    "world_size",
)  # columns about time and place
STEPS = ALL_STEPS


@dataclass(frozen=True)
class File:
    """Which file it is, not what it says: a file written again is another one."""

    inode: int
    written_ns: int


def files(results: Path) -> dict[str, File]:
    """The finished cells: path -> its Parquet file."""
    found = {}
    for path in visible(results):
        if path.suffix == ".parquet":
            status = path.stat()
            found[str(path.relative_to(results))] = File(status.st_ino, status.st_mtime_ns)
    return found


def visible(results: Path) -> Iterator[Path]:
    """The files that a reader of folders sees. (Path.rglob fails where a folder goes meanwhile.)"""
    for folder, folders, names in os.walk(results):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def values(results: Path, cell: str) -> str:
    """A digest of all that a cell says, weights and images included, but for time and place."""
    path = results / cell
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    table = (
        table.drop_columns([name for name in TIMED if name in table.column_names])
        .replace_schema_metadata(None)
        .combine_chunks()
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    digest = hashlib.sha256(sink.getvalue())
    tensors = tensors_of(path)
    digest.update(tensors.read_bytes() if tensors.exists() else b"none")
    return digest.hexdigest()


def tensors_of(path: Path) -> Path:
    """The weights or images of the cell whose Parquet file is at a path."""
    (root,) = (folder for folder in path.parents if (folder / "harness.json").exists())
    return (root / "tensors" / path.relative_to(root)).with_suffix(".safetensors")


def step_of(cell: str) -> str:
    """The step that makes a cell."""
    table, *folders = Path(cell).parts
    partition = dict(folder.split("=", 1) for folder in folders if "=" in folder)
    if table == "training":
        return {"base": "base-network", "imperceptible_bound": "defense"}.get(
            partition["method"], "baselines"
        )
    if table == "evaluation":
        return "white-box" if partition["access"] == "white_box" else "black-box"
    return {"classes": "bound", "sample": "bound"}.get(table, table)


def current_step(results: Path, wanted: Mapping[str, str]) -> str:
    """The step that a study is in: the first that lacks cells; "" when all are there."""
    there = files(results)
    lacking = {step_of(cell) for cell in wanted if cell not in there}
    return next((step for step in STEPS if step in lacking), "")


def leftovers(results: Path) -> list[str]:
    """Files that no finished study leaves: half-written ones, checkpoints, scratch folders, probes."""
    return sorted(
        str(path.relative_to(results))
        for path in results.rglob("*")
        if path.suffix in (".tmp", ".checkpoint")
        or path.name.startswith(".tune")
        or path.name.endswith("-journal")
    )


def unreadable(path: Path) -> str | None:
    """What is wrong with a visible file, if anything; None, too, for one that has gone meanwhile."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                rows = file.read()
                artifact = json.loads((rows.schema.metadata or {})[b"harness"])["artifact"]
            tensors = tensors_of(path)
            if artifact and hashlib.sha256(tensors.read_bytes()).hexdigest() != artifact["sha256"]:
                return f"its tensors in {tensors.name} are not those that it names"
        elif path.suffix == ".safetensors":
            payload = path.read_bytes()
            length = int.from_bytes(payload[:8], "little")
            header = json.loads(payload[8 : 8 + length])
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) != len(payload):
                return "is cut off"
        else:
            json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a reader would meet
        return f"{type(error).__name__}: {error}"
    return None


def runs(results: Path) -> int:
    """Finished runs in MLflow's database."""
    with closing(sqlite3.connect(f"file:{results / 'mlflow.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute(
            "select count(*) from runs where lifecycle_stage = 'active' and status = 'FINISHED'"
        ).fetchone()
    return int(count)
