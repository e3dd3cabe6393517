"""Studies of a few networks and attacks whose outcome is written down image by image."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from handmade import BASE, CLEAN, Attack, Network, write_record

from harness.results.cells import Cell
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store

DATASET = "digits"
NORMS = ("l0", "mean_l1", "l1", "l2", "linf")
TWIN = Network("twin", "base", own_role="control")
NO_NOISE = Network("no_noise", "imperceptible_bound", own_role="control")
MUST_PASS = Network("control_pgd", "pgd_training", own_role="control")


@dataclass(frozen=True)
class Measured:
    """A network on an attack's images, or clean ones: ``right`` says '1' or '0' of each image.

    ``sizes``: of the changes, by norm, one number or one an image; what is not given is 0. ``is_there``: or
    planned only.
    """

    network: Network
    attack: Attack
    right: str
    sizes: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    access: str = "white_box"
    seed: int = 0
    stage: bool = False
    is_there: bool = True

    @property
    def cell(self) -> Cell:
        columns = {
            "network": _training(self.network, self.seed).key,
            "method": self.network.method,
            **self.network.columns(self.seed),
            "attack": self.attack.name,
            **self.attack.columns(),
            "source": {"clean": None, "black_box": "base"}.get(self.access, self.network.name),
        }
        return Cell("evaluation", {"dataset": DATASET, "split": "test", "access": self.access}, columns, {})

    @property
    def attack_cell(self) -> Cell:
        """Of the black box: the images that the attack made on the base network."""
        columns = {"method": "base", **BASE.columns(self.seed), **self.attack.columns()}
        return Cell("attack", {"dataset": DATASET, "split": "test", "attack": self.attack.name}, columns, {})

    def rows(self) -> dict[str, Any]:
        labels = labels_of(self.right)
        is_right = np.array([digit == "1" for digit in self.right])
        rows = {
            "image_id": np.arange(len(labels)),
            "label": labels,
            "prediction": np.where(is_right, labels, 1 - labels).astype(np.int32),
        }
        return rows | (self.changes() if self.access == "white_box" else {})

    def changes(self) -> dict[str, Any]:
        sizes = {name: np.broadcast_to(self.sizes.get(name, 0.0), len(self.right)) for name in NORMS}
        return {**sizes, "l0": sizes["l0"].astype(np.int32), "attack_s": np.zeros(len(self.right))}

    def attack_rows(self) -> dict[str, Any]:
        labels = labels_of(self.right)
        rows = {"image_id": np.arange(len(labels)), "label": labels, "predicted": labels}
        return {**rows, "adversarial_predicted": 1 - labels, **self.changes()}


def labels_of(right: str) -> np.ndarray:
    return np.arange(len(right), dtype=np.int32) % 2


def clean(network: Network, right: str, seed: int = 0) -> Measured:
    return Measured(network, CLEAN, right, access="clean", seed=seed)


def check(network: Network, name: str, verdict: str, sentence: str, seed: int = 0, **more: Any) -> Cell:
    """The cell of one check; its row is what `check_row` says of it."""
    columns = {
        "network": _training(network, seed).key,
        "method": network.method,
        **network.columns(seed),
    }
    row = {
        "check": name,
        "verdict": verdict,
        "sentence": sentence,
        "statistic": 0.5,
        "threshold": 0.01,
    } | more
    return Cell("check", {"dataset": DATASET}, columns, row)


def check_row(cell: Cell) -> dict[str, Any]:
    row = {"norm": None, "epsilon": None, "images": 10, "evidence": [], **cell.spec}
    return {name: [value] for name, value in row.items()}


def certified(
    network: Network, radii: Sequence[float], right: str, sd: float, seed: int = 0
) -> tuple[Cell, Any]:
    columns = {"network": _training(network, seed).key, "method": network.method, **network.columns(seed)}
    cell = Cell("certified", {"dataset": DATASET}, columns, {"sd": sd})
    labels = labels_of(right)
    count = len(labels)
    rows = {
        "noise_sd": [sd] * count,
        "selection_draws": [100] * count,
        "certification_draws": [1000] * count,
        "alpha": [0.001] * count,
        "image_id": np.arange(count),
        "label": labels,
        "prediction": [
            int(label) if digit == "1" else -1 for label, digit in zip(labels, right, strict=True)
        ],
        "top_count": [900] * count,
        "radius": list(radii),
        "attacked_l2": [None] * count,
        "attacked_draws": [None] * count,
    }
    return cell, rows


def write(
    store: Store,
    measured: Iterable[Measured],
    bound: Sequence[float] | None = None,
    checks: Iterable[Cell] = (),
    smoothed: Iterable[tuple[Cell, Any]] = (),
    seeds: Sequence[int] = (0,),
    paper: str | None = None,
) -> Store:
    """A study 'small' of all this: its record, and the files of what is there."""
    measured, cells = list(measured), []
    networks = list(dict.fromkeys((each.seed, each.network) for each in measured))
    for each in measured:
        cells.append(each.cell)
        if each.is_there:
            store.write(each.cell, each.rows())
        if each.access == "black_box":
            cells.append(each.attack_cell)
            store.write(each.attack_cell, each.attack_rows())
    for cell in checks:
        cells.append(cell)
        store.write(cell, check_row(cell))
    for cell, rows in smoothed:
        cells.append(cell)
        store.write(cell, rows)
    if bound is not None:
        cell = Cell("bound", {"dataset": DATASET, "split": "test"}, {}, {})
        cells.append(cell)
        store.write(cell, _bound_rows(bound))
    about = {
        "dataset": DATASET,
        "title": DATASET,
        "paper": paper,
        "seeds": list(seeds),
        "neighbours": "other_class",
        "effectiveness_k": 2.0,
        "protocol": "label",
        "architecture": "convnet",
        "controls_left_out": [],
        "radii": [0.25],
        "networks": [
            {
                "position": position,
                "role": network.role,
                "name": network.name,
                "method": network.method,
                "title": network.title,
                "seed": seed,
                "key": _training(network, seed).key,
            }
            for position, (seed, network) in enumerate(networks)
        ],
    }
    write_record(
        store,
        "small",
        {
            "schema_version": SCHEMA_VERSION,
            "study": {},
            "about": about,
            "cells": [_recorded(cell) for cell in dict.fromkeys(cells)],
            "planned": [_planned(position, each) for position, each in enumerate(measured)],
        },
    )
    return store


def _training(network: Network, seed: int) -> Cell:
    return Cell("training", {"dataset": DATASET, "method": network.method}, network.columns(seed), {})


def _bound_rows(distances: Sequence[float]) -> dict[str, Any]:
    count = len(distances)
    return {
        "neighbours": ["other_class"] * count,
        "image_id": np.arange(count),
        "label": labels_of("0" * count),
        "neighbour_id": np.zeros(count, np.int64),
        "neighbour_label": np.zeros(count, np.int32),
        "distance": list(distances),
    }


def _recorded(cell: Cell) -> dict[str, str]:
    named = {"key": cell.key, "table": cell.table, "path": cell.path.as_posix()}
    return {**named, "title": json.dumps(dict(cell.partition)), "step": cell.table}


def _planned(position: int, each: Measured) -> dict[str, Any]:
    return {
        "position": position,
        "split": "test",
        "access": each.access,
        "stage": each.stage,
        "role": each.network.role,
        "method": each.network.method,
        **each.network.columns(each.seed),
        "title": each.network.title,
        "attack": each.attack.name,
        "attack_title": each.attack.title,
        **each.attack.columns(),
    }
