"""IV: the base network and finished models; III-C and V-D: the networks fine-tuned from the base network.

A training gets what its objective needs, and nothing else.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
from torch import Tensor

from harness.cluster import sweep
from harness.cluster.rank import Material
from harness.errors import Failed, HarnessError
from harness.evaluation.blocks import blocks
from harness.evaluation.tester import OUTPUTS_BLOCK, OutputsTask, StoredNetwork, Tester
from harness.pipeline.run import Run, StepWork
from harness.results import checkpoints
from harness.results.cells import Cell
from harness.study.costs import Price, Quote, training_price
from harness.study.trainings import Network


def _cells(step: str, run: Run) -> Iterable[Cell]:
    return [network.cell for network in run.plan.trained_by(step)]


def _make(step: str, run: Run) -> int:
    wanted = run.plan.trained_by(step)
    missing = run.todo(network.cell for network in wanted)
    for network in wanted:
        if network.cell not in missing:  # a run killed between writing the cell and this
            checkpoints.drop(run.store.folder, network.cell)
    feasible = run.feasible(step, missing)
    todo = [network for network in wanted if network.cell in feasible]
    epochs = sum(network.settings.epochs for network in todo)
    run.progress.begin(step, epochs, "epochs", len(wanted) - len(missing))

    def on_row(network: Network, row: dict[str, Any]) -> None:
        clean = 100 * row["clean_accuracy"]
        run.progress.advance(step, 1, f"{network.cell.title}: clean {clean:.1f} %")

    # Trainings of one sweep share workers and threads: each takes the same room.
    for alike in _by_room(todo):
        for network, failure in sweep.fit(alike, _material(run, alike), run.store, run.cluster, on_row):
            run.fail([network.cell], failure)
    run.progress.end(step)
    return len(missing)


def _by_room(networks: list[Network]) -> list[list[Network]]:
    rooms: dict[tuple[int, int], list[Network]] = {}
    for network in networks:
        rooms.setdefault((network.settings.workers, network.settings.threads), []).append(network)
    return list(rooms.values())


def _material(run: Run, networks: list[Network]) -> Material:
    """What these trainings share, by what their objectives need."""
    needs = [network.needs for network in networks]
    wants_outputs = {network.seed for network in networks if network.needs.base_outputs}
    starts = {network.seed for network in networks if network.base is not None}
    bases = {base.seed: base for base in run.plan.bases}
    first = [network for network in networks if network.base is None]
    files = {network.cell.key: _initial(run, network) for network in first}
    return Material(
        len(run.dataset.classes),
        run.dataset.train,
        run.dataset.test,
        bases={seed: run.store.tensors(bases[seed].cell) for seed in sorted(starts)},
        distance=_distances(run) if any(need.bound for need in needs) else None,
        base_outputs={seed: _outputs(run, bases[seed]) for seed in sorted(wants_outputs)},
        initial={key: tensors for key, tensors in files.items() if tensors is not None},
        compute=run.study.compute,
    )


def _initial(run: Run, network: Network) -> dict[str, Tensor] | None:
    """The tensors of the file that a training starts with; HarnessError where it is another than planned."""
    planned = run.plan.ground.weights.get(network.name)
    if network.architecture.initial_weights() != planned:
        raise HarnessError(f"the weights of '{network.cell.title}' changed while the study ran: run it again")
    return network.architecture.read_initial()


def _distances(run: Run) -> np.ndarray:
    """d_i of the training images, in their order (eq. 2), for the study's kind of neighbour."""
    rows = run.store.read(run.plan.bounds["train"])
    rows = rows.filter(pc.equal(rows["neighbours"], run.study.neighbours)).sort_by("image_id")
    assert np.array_equal(rows["image_id"].to_numpy(), run.dataset.train.ids), "the bound is of other images"
    distances: np.ndarray = rows["distance"].to_numpy().astype(np.float32)
    return distances


def _outputs(run: Run, base: Network) -> np.ndarray:
    """log f1(x) of the clean training images, once for all trainings (eq. 6)."""
    count = len(run.dataset.train.ids)
    stored = StoredNetwork(base.architecture, base.cell)
    tasks = [OutputsTask(stored, block) for block in blocks(count, OUTPUTS_BLOCK)]
    arguments = (run.store, run.shared_dataset)
    ((_, outputs),) = run.gather(Tester, arguments, Tester.log_probabilities, [(base, tasks)])
    if isinstance(outputs, Failed):
        raise HarnessError(f"the outputs of '{base.cell.title}' on the training images: {outputs.reason}")
    return np.concatenate(outputs)


def _price(step: str, quote: Quote) -> Price:
    return training_price(step, quote.plan.trained_by(step), quote)


WORK = {
    step: StepWork(partial(_cells, step), partial(_make, step), partial(_price, step))
    for step in ("base-network", "defense", "baselines")
}
