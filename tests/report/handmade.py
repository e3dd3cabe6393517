"""Results made by hand: cells and the record of a study as the planner writes them, without the planner."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.data.encoded import png
from harness.results.cells import Cell
from harness.results.records import SCHEMA_VERSION
from harness.results.store import Store
from harness.settings import epsilon_text

IMAGES = 10
LABELS = np.arange(IMAGES, dtype=np.int32) % 2
EPSILONS = (2 / 255, 0.3)


@dataclass(frozen=True)
class Network:
    name: str
    method: str
    settings: str = "{}"
    k: float | None = None
    n: int | None = None
    training_attack: str | None = None
    training_epsilon: float | None = None
    own_role: str | None = None

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def role(self) -> str:
        by_method = {"base": "base", "imperceptible_bound": "defense"}
        return self.own_role or by_method.get(self.method, "baseline")

    def columns(self, seed: int) -> dict[str, Any]:
        names = ("name", "settings", "k", "n", "training_attack", "training_epsilon")
        return {name: getattr(self, name) for name in names} | {"seed": seed}


@dataclass(frozen=True)
class Attack:
    """``step_size`` only of an iterative one with an epsilon."""

    name: str
    title: str
    method: str
    epsilon: float | None = None
    step_size: float | None = None
    norm: str = "linf"

    def columns(self) -> dict[str, Any]:
        return {
            "attack_method": self.method,
            "norm": None if self.name == "none" else self.norm,
            "epsilon": self.epsilon,
            "step_size": self.step_size,
        }


def bound_network(k: float, n: int, entry: str = "imperceptible_bound", **settings: Any) -> Network:
    """A network of the bound's defense; ``entry``: the study's name of the defense."""
    name = f"{entry} k={k:g} n={n}"
    return Network(name, "imperceptible_bound", json.dumps({"k": k, "n": n, **settings}), k, n)


def pgd(epsilon: float, divisor: float) -> Attack:
    return Attack("pgd", f"PGD {epsilon_text(epsilon)}", "pgd", epsilon, epsilon / divisor)


BASE = Network("base", "base")
CLEAN = Attack("none", "Clean", "none")
FGSM = tuple(Attack("fgsm", f"FGSM {epsilon_text(epsilon)}", "fgsm", epsilon) for epsilon in EPSILONS)
DEEPFOOL = Attack("deepfool", "DeepFool", "deepfool")
GRID = tuple(bound_network(k, n) for n in (10, 20) for k in (1.0, 2.5))
ADVERSARIAL = Network(
    "adversarial_images fgsm 2/255",
    "adversarial_images",
    training_attack="fgsm",
    training_epsilon=EPSILONS[0],
)
WHITE_BOX = (pgd(8 / 255, 4), pgd(8 / 255, 10))


@dataclass(frozen=True)
class Study:
    """All cells of a study and its record. ``white_box``: the networks attacked there, by seed."""

    name: str = "small"
    dataset: str = "cifar10"
    title: str = "cifar10"
    paper: str | None = "cifar10"
    seeds: tuple[int, ...] = (0,)
    networks: tuple[Network, ...] = (BASE, *GRID, ADVERSARIAL)
    attacks: tuple[Attack, ...] = (*FGSM, DEEPFOOL)
    white_box: dict[int, tuple[Network, ...]] = field(default_factory=lambda: {0: (BASE, GRID[1])})
    test_images: str = "all"  # of another subset, all cells of the test images are others
    pictures: bool = False  # whether names of classes, pictures and adversarial images are kept

    def bounds(self) -> list[Cell]:
        return [
            Cell("bound", {"dataset": self.dataset, "split": split}, {}, {"images": images})
            for split, images in (("train", "all"), ("test", self.test_images))
        ]

    def kept_cells(self) -> list[tuple[Cell, dict[str, Any]]]:
        """Names of the classes and pictures, with their rows."""
        if not self.pictures:
            return []
        tables = {"classes": {"label": [0, 1], "class_name": ["cat", "dog"]}, "sample": sample_rows()}
        return [(Cell(name, {"dataset": self.dataset}, {}, {}), rows) for name, rows in tables.items()]

    def attack_cells(self) -> list[tuple[int, str, Attack, Cell]]:
        """(seed, split, attack, cell): of the training images what adversarial training needs."""
        wanted = [("train", FGSM[0]), *(("test", attack) for attack in self.attacks)]
        return [
            (seed, split, attack, self._attack(seed, split, attack))
            for seed in self.seeds
            for split, attack in wanted
        ]

    def trainings(self) -> list[Cell]:
        return [self._training(network, seed) for seed in self.seeds for network in self.networks]

    def evaluations(self) -> Iterator[tuple[Network, Attack, int, Cell]]:
        """In the order of the record: (network, attack, seed, cell), the white box last."""
        for seed in self.seeds:
            for network in self.networks:
                for attack in (CLEAN, *self.attacks):
                    access = "clean" if attack == CLEAN else "black_box"
                    yield network, attack, seed, self._evaluation(network, attack, seed, access)
        for seed, networks in self.white_box.items():
            for network in networks:
                for attack in WHITE_BOX:
                    yield network, attack, seed, self._evaluation(network, attack, seed, "white_box")

    def cells(self) -> list[tuple[Cell, str, str]]:
        """(cell, step, title)."""
        cells = [(cell, "bound", "a bound") for cell in self.bounds()]
        cells += [(cell, "bound", cell.table) for cell, _ in self.kept_cells()]
        cells += [
            (cell, "attack", f"{attack.name} on {split}") for _, split, attack, cell in self.attack_cells()
        ]
        cells += [(cell, "defense", cell.columns["name"]) for cell in self.trainings()]
        for network, attack, _, cell in self.evaluations():
            step = "white-box" if cell.partition["access"] == "white_box" else "black-box"
            cells.append((cell, step, f"{network.name} against {attack.name}"))
        return cells

    def record(self) -> dict[str, Any]:
        about = {
            "dataset": self.dataset,
            "title": self.title,
            "paper": self.paper,
            "seeds": list(self.seeds),
            "neighbours": "other_class",
            "effectiveness_k": 2.0,
            "protocol": "prediction",
            "architecture": "convnet",
            "networks": self._networks(),
            "controls_left_out": [],
            "radii": [],
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "study": {"settings": "of some version or other"},
            "about": about,
            "cells": [
                {
                    "key": cell.key,
                    "table": cell.table,
                    "path": cell.path.as_posix(),
                    "title": title,
                    "step": step,
                }
                for cell, step, title in self.cells()
            ],
            "planned": [
                _planned(position, *evaluation) for position, evaluation in enumerate(self.evaluations())
            ],
        }

    def _networks(self) -> list[dict[str, Any]]:
        named = [(seed, network) for seed in self.seeds for network in self.networks]
        return [
            {
                "position": position,
                "role": network.role,
                "name": network.name,
                "method": network.method,
                "title": network.title,
                "seed": seed,
                "key": self._training(network, seed).key,
            }
            for position, (seed, network) in enumerate(named)
        ]

    def _attack(self, seed: int, split: str, attack: Attack) -> Cell:
        partition = {"dataset": self.dataset, "split": split, "attack": attack.name}
        columns = {"method": "base", **BASE.columns(seed), **attack.columns()}
        return Cell("attack", partition, columns, {"images": "all" if split == "train" else self.test_images})

    def _training(self, network: Network, seed: int) -> Cell:
        return Cell(
            "training", {"dataset": self.dataset, "method": network.method}, network.columns(seed), {}
        )

    def _evaluation(self, network: Network, attack: Attack, seed: int, access: str) -> Cell:
        columns = {
            "network": self._training(network, seed).key,
            "method": network.method,
            **network.columns(seed),
            "attack": attack.name,
            **attack.columns(),
            "source": {"clean": None, "black_box": "base", "white_box": network.name}[access],
        }
        return Cell(
            "evaluation",
            {"dataset": self.dataset, "split": "test", "access": access},
            columns,
            {"images": self.test_images},
        )


def _planned(position: int, network: Network, attack: Attack, seed: int, cell: Cell) -> dict[str, Any]:
    return {
        "position": position,
        "split": "test",
        "access": cell.partition["access"],
        "stage": False,
        "role": network.role,
        "method": network.method,
        **network.columns(seed),
        "title": network.title,
        "attack": attack.name,
        "attack_title": attack.title,
        **attack.columns(),
    }


def right(network: Network, attack: Attack, seed: int) -> int:
    """A cell's count of correct images of 10, made from what it is."""
    if network.method == "imperceptible_bound" and attack.name != "pgd":
        is_larger = network.k is not None and network.k > 1 and attack != DEEPFOOL
        return {"none": 8, "fgsm": 4, "deepfool": 5}[attack.name] + is_larger
    return {"none": 9, "fgsm": 3, "deepfool": 2, "pgd": 0}[attack.name] + (
        network.method == "adversarial_images"
    )


def fill(
    store: Store,
    study: Study,
    keep: Callable[[Cell], bool] = lambda cell: True,
    right: Callable[[Network, Attack, int], int] = right,
) -> None:
    """Write the study's record, and all its cells that ``keep`` wants but the trainings."""
    for position, cell in enumerate(study.bounds()):
        if keep(cell):
            store.write(cell, bound_rows(position))
    for cell, rows in study.kept_cells():
        if keep(cell):
            store.write(cell, rows)
    for position, (*_, cell) in enumerate(study.attack_cells()):
        if keep(cell):
            tensors = {"adversarial": adversarial(position)} if study.pictures else None
            store.write(cell, attack_rows(position), tensors)
    for place, (network, attack, seed, cell) in enumerate(study.evaluations()):
        if keep(cell):
            rows = evaluation_rows(right(network, attack, seed))
            if study.pictures and cell.partition["access"] == "white_box":
                changes = {name: attack_rows(place)[name] for name in ("mean_l1", "l0", "l1", "l2", "linf")}
                store.write(cell, rows | changes, {"adversarial": adversarial(place)})
            else:
                store.write(cell, rows)
    write_record(store, study.name, study.record())


def write_record(store: Store, name: str, record: dict[str, Any]) -> None:
    store.folder.write(f"studies/{name}.json", json.dumps(record).encode())


def clean_images() -> np.ndarray:
    """The test images, uint8 [10, 3, 4, 5]."""
    return np.random.default_rng(100).integers(0, 256, (IMAGES, 3, 4, 5), np.uint8)


def neighbour_images() -> np.ndarray:
    """A training image of another class for each."""
    return 255 - clean_images()


def adversarial(draw: int) -> np.ndarray:
    """The test images changed a little, float32 in [0, 1]."""
    change = np.random.default_rng(draw).uniform(-0.04, 0.04, clean_images().shape)
    return np.clip(clean_images() / 255 + change, 0, 1).astype(np.float32)


SAMPLED = (8, 1, 7, 3, 4, 5)  # images, in the order of their sigma or any other


def sample_rows() -> dict[str, Any]:
    """18 rows: 6 images, themselves, their neighbours of another class, and of any class themselves again."""
    images = list(SAMPLED)
    shown = {"image": clean_images(), "other_class": neighbour_images(), "any_class": clean_images()}
    return {
        "image_id": images * 3,
        "picture": [picture for picture in shown for _ in images],
        "picture_id": [*images, *(50 + image for image in images), *(70 + image for image in images)],
        "label": [*LABELS[images], *(1 - LABELS[images]), *LABELS[images]],
        "distance": [0.0] * 6 + [0.1] * 6 + [0.05] * 6,
        "pixels": ["of no interest here"] * 18,
        "png": [png(pictures[image]) for pictures in shown.values() for image in images],
    }


def bound_rows(draw: int) -> dict[str, Any]:
    """20 rows: 10 images, both kinds of neighbour; any_class is half as far."""
    distance = np.random.default_rng(draw).uniform(0.05, 0.2, IMAGES)
    return {
        "neighbours": ["other_class"] * IMAGES + ["any_class"] * IMAGES,
        "image_id": np.tile(np.arange(IMAGES), 2),
        "label": np.tile(LABELS, 2),
        "neighbour_id": np.zeros(2 * IMAGES, np.int64),
        "neighbour_label": np.zeros(2 * IMAGES, np.int32),
        "distance": np.concatenate([distance, distance / 2]),
    }


def attack_rows(draw: int) -> dict[str, Any]:
    rng = np.random.default_rng(draw)
    norms = {name: np.zeros(IMAGES) for name in ("l0", "l1", "l2", "linf", "attack_s")}
    fooled = rng.integers(0, 2, IMAGES).astype(np.int32)
    return {
        "image_id": np.arange(IMAGES),
        "label": LABELS,
        "predicted": LABELS,
        "adversarial_predicted": LABELS ^ fooled,
        **norms,
        "mean_l1": rng.uniform(0, 0.06, IMAGES),
    }


def evaluation_rows(right: int) -> dict[str, Any]:
    """``right`` of 10 images are classified correctly."""
    return {
        "image_id": np.arange(IMAGES),
        "label": LABELS,
        "prediction": np.where(np.arange(IMAGES) < right, LABELS, 1 - LABELS),
    }
