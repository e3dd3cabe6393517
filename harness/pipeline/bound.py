"""III-A: the bound of every image. With it what shows images later: names of classes, pictures of some."""

from collections.abc import Iterable

from harness.cluster.workers import Cluster
from harness.data.source import Extent
from harness.errors import Failed
from harness.neighbours import learning, shards
from harness.neighbours.searcher import Searcher
from harness.pipeline.run import Run, StepWork
from harness.pipeline.sample import class_rows, sample_rows
from harness.results.cells import Cell
from harness.study.costs import Price, Quote, table_bytes


def _cells(run: Run) -> Iterable[Cell]:
    return run.plan.of_images


def _make(run: Run) -> int:
    tried = _search(run) + _name_classes(run) + _keep_pictures(run)
    run.progress.end("bound")
    return tried


def _search(run: Run) -> int:
    """Make the missing bounds; how many were tried, here and below."""
    todo = {cell.partition["split"]: cell for cell in run.todo(run.plan.bounds.values())}
    train = run.dataset.train if todo else None
    cut = {split: shards.shards_of(getattr(run.dataset, split), run.dataset.train) for split in todo}
    there = len(run.plan.of_images) - len(run.todo(run.plan.of_images))
    run.progress.begin("bound", sum(map(len, cut.values())), "blocks", there)
    if train is not None:
        gpu = _has_gpu(run.cluster)
        arguments = (run.shared_dataset, run.cluster.share(learning.index(train, gpu=gpu)), gpu)
        groups = [(split, _tasks(split, mine)) for split, mine in cut.items()]

        def on_shard(_: object) -> None:
            run.progress.advance("bound")

        for split, results in run.gather(Searcher, arguments, Searcher.search, groups, on_shard, gpu):
            if isinstance(results, Failed):
                run.fail([todo[split]], results)
                continue
            parts = list(zip(cut[split], results, strict=True))
            run.keep(todo[split], shards.bound_rows(getattr(run.dataset, split), train, parts))
    return len(todo)


def _name_classes(run: Run) -> int:
    todo = run.todo([run.plan.classes])
    for cell in todo:
        run.keep(cell, class_rows(run.dataset))
    return len(todo)


def _keep_pictures(run: Run) -> int:
    todo = run.todo([run.plan.sample] if run.plan.sample else [])
    for cell in run.feasible("bound", todo):
        bound = run.store.read(run.plan.bounds["test"])
        run.keep(cell, sample_rows(run.dataset, bound, run.study.pictures, run.study.neighbours))
    return len(todo)


def _tasks(split: str, cut: list[shards.Shard]) -> list[tuple[str, shards.Shard]]:
    return [(split, shard) for shard in cut]


def _has_gpu(cluster: Cluster) -> bool:
    """Whether workers find a GPU: one of the cluster, or this process's own where it does the work."""
    if not cluster.local:
        return cluster.gpus > 0
    from harness.networks.device import device

    return device().type == "cuda"


def _price(quote: Quote) -> Price:
    train, test = quote.size.train, quote.size.test
    on = quote.bound.gpu_seconds if quote.rates.uses_gpu else quote.bound.seconds
    seconds = sum(on(queries, train, quote.size.values) for queries in (train, test))
    size = sum(table_bytes("bound", 2 * queries) for queries in (train, test))
    size += table_bytes("classes", quote.size.classes)
    if quote.plan.sample:
        size += _sample_bytes(3 * min(quote.plan.study.pictures, test), quote.size)
    shards = train // 512 + 1
    cells, tasks = len(quote.plan.of_images), [(seconds / shards, shards)]
    return quote.step("bound", cells, tasks, size, quote.rates.start_up.workers_s)


def _sample_bytes(pictures: int, size: Extent) -> int:
    """Of pictures as PNG: measured on MNIST's digits and on photographs of CIFAR-10 and Tiny ImageNet."""
    share = 0.35 if size.shape[0] == 1 else 0.75
    return table_bytes("sample", pictures) + round(pictures * size.values * share)


WORK = {"bound": StepWork(_cells, _make, _price)}
