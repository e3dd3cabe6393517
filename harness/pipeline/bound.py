"""III-A: the bound of every image."""

from collections.abc import Iterable

from harness.cluster.workers import Cluster
from harness.errors import Failed
from harness.neighbours import learning, shards
from harness.neighbours.searcher import Searcher
from harness.pipeline.run import Run, StepWork
from harness.results.cells import Cell
from harness.study.costs import Price, Quote, table_bytes


def _cells(run: Run) -> Iterable[Cell]:
    return run.plan.bounds.values()


def _make(run: Run) -> int:
    todo = {cell.partition["split"]: cell for cell in run.todo(_cells(run))}
    train = run.dataset.train if todo else None
    cut = {split: shards.shards_of(getattr(run.dataset, split), run.dataset.train) for split in todo}
    run.progress.begin("bound", sum(map(len, cut.values())), "blocks", len(run.plan.bounds) - len(todo))
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
    run.progress.end("bound")
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
    shards = train // 512 + 1
    return quote.step("bound", 2, [(seconds / shards, shards)], size, quote.rates.start_up.workers_s)


WORK = {"bound": StepWork(_cells, _make, _price)}
