"""A finished study of four networks made by hand, cell by cell, as the planner writes them."""

import json
import math
from typing import Any

from harness.results.cells import Cell
from harness.results.store import Store

LABELS = [0, 1, 2, 3]
DATASET = "mini-digits"
SHARED = {"batch_size": 128, "learning_rate": 0.001, "precision": "float32"}
ABOUT = {
    "dataset": DATASET,
    "title": DATASET,
    "paper": None,
    "seeds": [0],
    "neighbours": "other_class",
    "effectiveness_k": 2.0,
    "protocol": "prediction",
    "architecture": "convnet",
    "networks": [],
    "controls_left_out": [],
    "radii": [],
}
# Attack and epsilon * 255 -> positions in LABELS that networks get wrong; the base network one more.
WRONG: dict[tuple[str, int | None], set[int]] = {
    ("none", None): set(),
    ("fgsm", 4): {0},
    ("fgsm", 8): {0},
    ("deepfool", None): {1},
    ("pgd", 2): {0},
    ("pgd", 8): {0, 1},
}


def training(name: str, method: str, epochs: int, own: dict[str, Any], seed: int = 0, **plain: Any) -> Cell:
    """A network: ``own`` settings of its method, ``plain`` the columns k, n and so on that it has."""
    columns = {
        "name": name,
        "settings": json.dumps({"epochs": epochs, **SHARED, **own}),
        **dict.fromkeys(("k", "n", "training_attack", "training_epsilon")),
        **plain,
        "seed": seed,
    }
    spec = {"architecture": {"architecture": "convnet"}}
    return Cell("training", {"dataset": DATASET, "method": method}, columns, spec, title=name)


def evaluation(
    network: Cell, access: str, attack: str, epsilon: float | None = None, divisor: float | None = None
) -> Cell:
    """A network on clean images ('none'), on an attack's, or attacked itself."""
    columns = {
        "network": network.key,
        "method": network.partition["method"],
        **network.columns,
        "attack": attack,
        "attack_method": attack,
        "norm": None if attack == "none" else "linf",
        "epsilon": epsilon,
        "step_size": epsilon / divisor if epsilon and divisor else None,
        "source": {"clean": None, "black_box": "base", "white_box": network.columns["name"]}[access],
    }
    title = f"{network.title} against {attack}"
    return Cell(
        "evaluation", {"dataset": DATASET, "split": "test", "access": access}, columns, {}, (network,), title
    )


def bound_network(k: float, seed: int = 0) -> Cell:
    method = "imperceptible_bound"
    return training(f"{method} k={k:g} n=10", method, 1, {"k": k, "n": 10}, seed, k=k, n=10)


def black_box(network: Cell) -> list[Cell]:
    """A network on all images: clean, and of each attack."""
    attacks = [("fgsm", 4 / 255), ("fgsm", 8 / 255), ("deepfool", None)]
    attacked = [evaluation(network, "black_box", name, epsilon) for name, epsilon in attacks]
    return [evaluation(network, "clean", "none"), *attacked]


BASE = training("base", "base", 2, {})
GRID = (bound_network(1.0), bound_network(2.5))
ADVERSARIAL = training(
    "adversarial_images fgsm 8/255",
    "adversarial_images",
    1,
    {"sources": {"attack": "fgsm", "epsilon": 8 / 255}},
    training_attack="fgsm",
    training_epsilon=8 / 255,
)
NETWORKS = (BASE, *GRID, ADVERSARIAL)
BLACK_BOX = [cell for network in NETWORKS for cell in black_box(network)]
WHITE_BOX = [
    evaluation(BASE, "white_box", "pgd", epsilon, divisor)
    for epsilon in (2 / 255, 8 / 255)
    for divisor in (4, 10)
]
BOUNDS = [Cell("bound", {"dataset": DATASET, "split": split}, {}, {}) for split in ("train", "test")]
CELLS = [*BOUNDS, *NETWORKS, *BLACK_BOX, *WHITE_BOX]


def record(store: Store, cells: list[Cell] = CELLS) -> None:
    """Write the record of a study 'mini' of these cells."""
    steps = {"bound": "bound", "training": "defense", "evaluation": "black-box", "check": "check"}
    by_step: dict[str, list[Cell]] = {step: [] for step in steps.values()}
    for cell in cells:
        by_step[steps[cell.table]].append(cell)
    networks = [_network(position, cell) for position, cell in enumerate(by_step["defense"])]
    planned = [_planned(position, cell) for position, cell in enumerate(by_step["black-box"])]
    store.record_study("mini", {"name": "mini"}, by_step, {**ABOUT, "networks": networks}, planned)


def _facts(cell: Cell) -> dict[str, Any]:
    """What the record says of a network, from a cell of it."""
    roles = {"base": "base", "adversarial_images": "baseline"}
    method = cell.columns.get("method") or cell.partition["method"]
    named = {name: cell.columns[name] for name in ("name", "seed")}
    return {"role": roles.get(method, "defense"), "method": method, "title": cell.columns["name"], **named}


def _network(position: int, cell: Cell) -> dict[str, Any]:
    return {"position": position, **_facts(cell), "key": cell.key}


def _planned(position: int, cell: Cell) -> dict[str, Any]:
    about = ("k", "n", "training_attack", "training_epsilon", "attack", "attack_method", "norm", "epsilon")
    columns = {name: cell.columns[name] for name in (*about, "step_size", "settings", "source")}
    where = {name: cell.partition[name] for name in ("split", "access")}
    facts = {"stage": False, "attack_title": cell.columns["attack"]}
    return {"position": position, **where, **facts, **_facts(cell), **columns}


def write(store: Store, cell: Cell) -> None:
    """The file of a training or an evaluation."""
    if cell.table == "training":
        store.write(cell, _training_rows(cell))
    elif cell.table == "evaluation":
        store.write(cell, evaluation_rows(cell))


def _training_rows(cell: Cell) -> dict[str, Any]:
    """Half a second an epoch; the loss of the last of two epochs is infinite."""
    epochs = json.loads(cell.columns["settings"])["epochs"] + 1
    losses = [None, 0.5, math.inf]
    return {
        "epoch": list(range(epochs)),
        "loss": losses[:epochs],
        "clean_accuracy": [0.1, 0.75, 1.0][:epochs],
        "images_per_s": [None, 100.0, 200.0][:epochs],
        "epoch_s": [0.5] * epochs,
        "peak_share": [None] * epochs,
        "device": ["cpu"] * epochs,
        "world_size": [1] * epochs,
    }


def evaluation_rows(cell: Cell) -> dict[str, Any]:
    attack, epsilon = cell.columns["attack"], cell.columns["epsilon"]
    wrong = WRONG[attack, epsilon and round(255 * epsilon)]
    if cell.columns["method"] == "base":
        wrong = wrong | {2}
    predictions = [(label + (label in wrong)) % 4 for label in LABELS]
    # Evaluations need not have their images in one order.
    order = [3, 1, 0, 2] if attack == "deepfool" else [0, 1, 2, 3]
    columns = {"image_id": [10, 11, 12, 13], "label": LABELS, "prediction": predictions}
    if cell.partition["access"] == "white_box":
        columns["linf"] = [epsilon] * 4
    return {name: [values[position] for position in order] for name, values in columns.items()}


def filled(store: Store) -> Store:
    """The store, opened, with the study's record and all its trainings and evaluations."""
    store.open()
    record(store)
    for cell in CELLS:
        write(store, cell)
    return store
