"""Pieces of work: what determines each, what it is called, and where its files lie below the results root.

A cell's path follows from what produces it, so nothing is looked up and nothing is made twice.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness import nvidia
from harness.results.records import SCHEMA_VERSION, SCHEMAS

TENSORS, FAILURES = "tensors", "failures"  # folders of what a cell has beside its Parquet file


@dataclass(frozen=True, eq=False)
class Cell:
    """One addressed piece of work.

    ``spec`` is everything that determines its rows, ``needs`` the cells it is made from; the key is a hash of
    both. ``columns`` are the plain columns that all its rows share. ``title`` is what messages call it.
    """

    table: str
    partition: Mapping[str, str]
    columns: Mapping[str, Any]
    spec: Mapping[str, Any] = field(repr=False)
    needs: tuple["Cell", ...] = field(default=(), repr=False)
    title: str = field(default="", repr=False)

    @cached_property
    def key(self) -> str:
        """16 hex digits that name the cell."""
        needs = [need.key for need in self.needs]
        return key_of(self.table, self.partition, self.columns, self.spec, needs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def path(self) -> Path:
        """The Parquet file, relative to the results root."""
        folders = [f"{name}={self.partition[name]}" for name in SCHEMAS[self.table].partition]
        return Path(self.table, *folders, f"{self.key}.parquet")


def key_of(
    table: str,
    partition: Mapping[str, str],
    columns: Mapping[str, Any],
    spec: Mapping[str, Any],
    needs: list[str],
) -> str:
    """The key of a cell of these settings, made from cells with these keys."""
    identity = [SCHEMA_VERSION, table, dict(partition), dict(columns), dict(spec), needs]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def tensors_path(path: Path) -> Path:
    """The safetensors file of the cell whose Parquet file is at a path: not among those of its table."""
    return Path(TENSORS, path).with_suffix(".safetensors")


def failure_path(path: Path) -> Path:
    """What says why the cell whose Parquet file belongs at a path could not be made."""
    return Path(FAILURES, path).with_suffix(".json")


def own_version() -> str:
    """The harness's installed version; 'unknown' for a copy of the source that is not installed."""
    try:
        return version("harness")
    except PackageNotFoundError:
        return "unknown"


def hardware() -> dict[str, Any]:
    """What a cell was made on and with: kept beside its spec, never part of its key.

    What only torch knows, ``networks.device.cuda_versions`` adds: results are read without it.
    """
    versions = {}
    attacking = ("foolbox", "adversarial-robustness-toolbox", "torchattacks", "timm", "torchvision")
    for name in ("harness", "torch", "numpy", "faiss-cpu", "faiss-gpu", *attacking, "ray", "pyarrow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    machine: dict[str, Any] = {
        "host": platform.node(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    if driver := nvidia.driver():
        machine |= {"gpus": list(driver.gpus), "driver": driver.version}
    return {**machine, "python": platform.python_version(), "versions": versions}
