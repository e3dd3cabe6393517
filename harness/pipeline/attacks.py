"""III-B: adversarial images, made on the base networks."""

from collections.abc import Container, Iterable
from dataclasses import replace

import numpy as np

from harness.errors import Failed
from harness.evaluation.blocks import BATCHES_PER_BLOCK, blocks, stack
from harness.evaluation.tester import AttackTask, Tester
from harness.pipeline.run import Run, StepWork
from harness.results.cells import Cell, hardware
from harness.seeds import derive
from harness.study.costs import Price, Quote, table_bytes
from harness.study.plan import PlannedAttack


def _cells(run: Run) -> Iterable[Cell]:
    return [cell for attack in run.plan.attacks for cell in attack.cells]


def _make(run: Run) -> int:
    missing = run.todo(_cells(run))
    feasible = run.feasible("attack", missing)
    parts = [_part(attack, feasible) for attack in run.plan.attacks]
    todo = [part for part in parts if part.cells]
    total = sum(len(getattr(run.dataset, attack.split).ids) for attack in todo)
    planned = sum(len(attack.cells) for attack in run.plan.attacks)
    run.progress.begin("attack", total, "images", planned - len(missing))
    if todo:

        def on_task(task: AttackTask) -> None:
            note = f"{task.name} on {task.split} images"
            run.progress.advance("attack", task.block.stop - task.block.start, note)

        groups = [(attack, _tasks(run, attack)) for attack in todo]
        arguments = (run.study.network, run.store, run.shared_dataset)
        for attack, results in run.gather(Tester, arguments, Tester.attack, groups, on_task):
            if isinstance(results, Failed):
                run.fail(attack.cells, results)
                continue
            for cell, pieces in zip(attack.cells, zip(*results, strict=True), strict=True):
                images = np.concatenate([images for _, images in pieces])
                rows = stack([rows for rows, _ in pieces])
                run.store.write(cell, rows, {"adversarial": images}, **hardware())
    run.progress.end("attack")
    return len(missing)


def _part(attack: PlannedAttack, feasible: Container[Cell]) -> PlannedAttack:
    """The part of an attack that is not done: a finished epsilon is not made again for another's sake."""
    cells = tuple(cell for cell in attack.cells if cell in feasible)
    epsilons = tuple(cell.columns["epsilon"] for cell in cells)
    settings = attack.settings.with_epsilons(epsilons) if cells else attack.settings
    return replace(attack, settings=settings, cells=cells)


def _tasks(run: Run, attack: PlannedAttack) -> list[AttackTask]:
    study = run.study
    seed = derive(attack.network.seed, "attack", attack.name)
    return [
        AttackTask(
            attack.name,
            attack.network.cell,
            attack.settings,
            attack.split,
            block,
            study.protocol,
            seed,
            study.batch_size,
        )
        for block in image_blocks(run, attack.split)
    ]


def image_blocks(run: Run, split: str) -> list[slice]:
    """The blocks in which a split's images are attacked."""
    count = len(getattr(run.dataset, split).ids)
    return blocks(count, BATCHES_PER_BLOCK * run.study.batch_size)


def _price(quote: Quote) -> Price:
    size, plan = quote.size, quote.plan
    gradients, written, blocks_of_images = 0.0, 0, 0
    for attack in plan.attacks:
        count = quote.count(attack.split)
        gradients += count * attack.settings.cost(size.classes, size.values)
        written += len(attack.cells) * (4 * size.values * count + table_bytes("attack", count))
        blocks_of_images += -(-count // (BATCHES_PER_BLOCK * plan.study.batch_size))
    cells = sum(len(attack.cells) for attack in plan.attacks)
    return Price("attack", cells, gradients / quote.rates.gradients, blocks_of_images, written)


WORK = {"attack": StepWork(_cells, _make, _price)}
