"""III-B: adversarial images, made on the base networks; and how any attack on any network is made."""

from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from harness.attacks.attack import member_seed
from harness.errors import Failed, HarnessError
from harness.evaluation.blocks import BATCHES_PER_BLOCK, blocks, stack
from harness.evaluation.tester import AttackTask, StoredNetwork, Tester
from harness.pipeline.run import Run, StepWork
from harness.results.cells import Cell
from harness.seeds import derive
from harness.study.attacks import PlannedAttack
from harness.study.costs import Price, Quote, table_bytes


def _cells(run: Run) -> Iterable[Cell]:
    return [cell for attack in run.plan.attacks for cell in attack.cells]


def _make(run: Run) -> int:
    return make(run, "attack", run.plan.attacks)


def make(run: Run, step: str, planned: Sequence[PlannedAttack], done: int = 0) -> int:
    """Make the missing cells of these attacks; how many were tried. ``done`` of the step's are not theirs."""
    cells = [cell for attack in planned for cell in attack.cells]
    missing = set(run.todo(cells))
    todo = [attack for attack in planned if missing.intersection(attack.cells)]
    total = sum(len(run.dataset.of(attack.split).ids) for attack in todo)
    run.progress.begin(step, total, "images", done + len(cells) - len(missing))
    # A member of a worst case starts from what the one before it left.
    for position in sorted({attack.position for attack in todo}):
        _make_members(run, step, [attack for attack in todo if attack.position == position], missing)
    run.progress.end(step)
    return len(missing)


def _make_members(run: Run, step: str, planned: Sequence[PlannedAttack], missing: Container[Cell]) -> None:
    """The missing cells of attacks of which none starts from another."""
    wanted = [cell for attack in planned for cell in attack.cells if cell in missing]
    feasible = run.feasible(step, wanted)
    todo = [part for part in (_part(attack, feasible) for attack in planned) if part.cells]
    if not todo:
        return

    def on_task(task: AttackTask) -> None:
        note = f"{task.name} on {task.split.replace('_', ' ')} images"
        run.progress.advance(step, task.block.stop - task.block.start, note)

    # The longest first: a worker that has the last block has the others wait.
    todo.sort(key=lambda attack: -_gradients_a_block(run, attack))
    groups = [(attack, _tasks(run, attack)) for attack in todo]
    arguments = (run.store, run.shared_dataset)
    for attack, results in run.gather(Tester, arguments, Tester.attack, groups, on_task):
        if isinstance(results, Failed):
            run.fail(attack.cells, results)
            continue
        for cell, pieces in zip(attack.cells, zip(*results, strict=True), strict=True):
            _keep(run, attack, cell, pieces)


def _keep(
    run: Run, attack: PlannedAttack, cell: Cell, pieces: Sequence[tuple[dict[str, Any], np.ndarray]]
) -> None:
    """Write one epsilon's cell, of the blocks' rows and images in order."""
    rows: dict[str, Any] = stack([rows for rows, _ in pieces])
    images = np.concatenate([images for _, images in pieces]) if attack.keeps_images else None
    if cell.table == "evaluation":
        rows["prediction"] = rows["adversarial_predicted"]
    run.keep(cell, rows, None if images is None else {"adversarial": images})


def _part(attack: PlannedAttack, feasible: Container[Cell]) -> PlannedAttack:
    """The part of an attack that is not done: a finished epsilon is not made again for another's sake."""
    kept = [position for position, cell in enumerate(attack.cells) if cell in feasible]
    cells = tuple(attack.cells[position] for position in kept)
    after = tuple(attack.after[position] for position in kept) if attack.after else ()
    epsilons = tuple(cell.columns["epsilon"] for cell in cells)
    settings = attack.settings.with_epsilons(epsilons) if cells else attack.settings
    return replace(attack, settings=settings, cells=cells, after=after)


def _tasks(run: Run, attack: PlannedAttack) -> list[AttackTask]:
    study, network = run.study, attack.network
    seed = derive(network.seed, *attack.draws)
    if attack.member is not None:
        seed = member_seed(seed, attack.member)
    return [
        AttackTask(
            attack.name,
            StoredNetwork(network.architecture, network.cell),
            attack.settings,
            attack.split,
            block,
            study.protocol,
            seed,
            study.batch_size,
            study.compute.block_limit_s,
            attack.member is not None,
            attack.after,
            attack.cells[0].table == "attack" and attack.split != "train",
        )
        for block in image_blocks(run, attack.split)
    ]


def _gradients_a_block(run: Run, attack: PlannedAttack) -> float:
    """What the largest block of an attack costs; 0 where an attack from outside can't say."""
    dataset = run.dataset
    images = dataset.of(attack.split).ids[image_blocks(run, attack.split)[0]]
    with suppress(HarnessError):
        return len(images) * attack.settings.cost(len(dataset.classes), dataset.train.pixels[0].size)
    return 0.0


def image_blocks(run: Run, split: str) -> list[slice]:
    """The blocks in which a split's images are attacked."""
    count = len(run.dataset.of(split).ids)
    return blocks(count, BATCHES_PER_BLOCK * run.study.batch_size)


def _price(quote: Quote) -> Price:
    return attack_price("attack", quote.plan.attacks, quote, quote.rates.start_up.workers_s)


def attack_price(step: str, attacks: Iterable[PlannedAttack], quote: Quote, starts_s: float = 0.0) -> Price:
    """Of attacks, each a cell for every epsilon."""
    size = quote.size
    cells, written, tasks = 0, 0, []
    for attack in attacks:
        count = quote.count(attack.split)
        image_bytes = 4 * size.values * count if attack.keeps_images else 0
        gradients = attack.settings.cost(size.classes, size.values)
        for block in blocks(count, BATCHES_PER_BLOCK * quote.plan.study.batch_size):
            images = block.stop - block.start
            tasks.append((quote.rates.attack_s(attack.settings, images * gradients), 1))
        written += len(attack.cells) * (image_bytes + table_bytes("attack", count))
        cells += len(attack.cells)
    return quote.step(step, cells, tasks, written, starts_s)


WORK = {"attack": StepWork(_cells, _make, _price)}
