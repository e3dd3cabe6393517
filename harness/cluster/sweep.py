"""Ray Tune over trainings, each of them DDP over its workers: one code path for 0, 1 and N GPUs.

A trial is a class Trainable whose actor Tune reuses from cell to cell, so that torch is imported and the data
mapped once; a second cell costs milliseconds. The documented alternative, a function that builds a
TorchTrainer, was measured at 20 to 30 s a trial (a controller and new worker processes each time) and hides
its workers' resources from Tune, which then cannot run as many trials as fit. A training of one worker runs
in the trial's own process; only more than one get a gang of ranks in the trial's placement group.

Tune's own checkpoints are not used: about once a minute an epoch replaces the cell's checkpoint in the store,
so that a training goes on after the loss of a rank, of the trial or of the driver alike.
"""

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from harness.cluster.rank import Material, Rank
from harness.cluster.workers import Cluster
from harness.errors import Failed, HarnessError, attempt
from harness.networks.training import TrainingSettings
from harness.results import locking
from harness.results.store import Store
from harness.study.trainings import Network

OnRow = Callable[[Network, dict[str, Any]], None]  # told of each epoch's row of table ``training``


def fit(
    pending: list[Network], material: Material, store: Store, cluster: Cluster, on_row: OnRow
) -> list[tuple[Network, Failed]]:
    """Train all of ``pending`` (of one TrainingSettings's workers and threads) and write their cells.

    Those that failed come back, and why. Raises HarnessError where the trainings do not fit the cluster.
    """
    if not pending:
        return []
    if cluster.local:
        failed = _fit_here(pending, material, store, on_row)
    else:
        _check_fit(pending[0].settings, cluster)
        failed = _fit_over_tune(pending, material, store, cluster, on_row)
    return [(pending[position], failed[position]) for position in sorted(failed)]


def _fit_here(pending: list[Network], material: Material, store: Store, on_row: OnRow) -> dict[int, Failed]:
    """One after the other in this process: no Ray, one worker each. Position -> why it failed."""
    threads = torch.get_num_threads()
    rank = Rank(store, material, threads=pending[0].settings.threads)

    def train(network: Network) -> None:
        rank.open(network)
        while not rank.done():
            on_row(network, rank.epoch())

    outcomes = [attempt(train, network) for network in pending]
    torch.set_num_threads(threads)
    return {position: outcome for position, outcome in enumerate(outcomes) if isinstance(outcome, Failed)}


def _check_fit(settings: TrainingSettings, cluster: Cluster) -> None:
    """Raise HarnessError where not even one of the trainings fits the cluster."""
    if not _trials_at_once(settings, cluster):
        room = f"{cluster.workers} {'GPUs' if cluster.gpus else 'cores'}"
        raise HarnessError(
            f"a training of {settings.workers} workers with {settings.threads} cores each does not fit "
            f"the {room} that the study may use (compute.workers)"
        )
    if settings.workers > 1 and 0 < cluster.gpu_share < 1:
        raise HarnessError(
            f"a training of {settings.workers} workers needs a GPU for each: "
            f"compute.workers is more than the {cluster.gpus:g} GPUs"
        )


def _trials_at_once(settings: TrainingSettings, cluster: Cluster) -> int:
    """Trainings side by side within what the study may use; how they fit the nodes is Tune's matter."""
    return cluster.workers // (settings.workers if cluster.gpus else settings.workers * settings.threads)


def _fit_over_tune(
    pending: list[Network], material: Material, store: Store, cluster: Cluster, on_row: OnRow
) -> dict[int, Failed]:
    """A Tuner over the pending cells, as many trials at once as fit. Position -> why it failed."""
    _quieten_tune()
    import ray
    from ray import tune

    from harness.cluster.trial import Outcomes, SharedWork, Trial

    cluster.release()
    settings, outcomes = pending[0].settings, Outcomes(pending, on_row)
    work = SharedWork(store, pending, ray.put(material), cluster.interface, Rank)
    trial = tune.with_resources(
        tune.with_parameters(Trial, work=work), tune.PlacementGroupFactory(_bundles(settings, cluster))
    )
    # Tune prints a box even when asked for silence.
    with _scratch(store) as folder, redirect_stdout(io.StringIO()):
        tune.Tuner(
            trial,
            param_space={"position": tune.grid_search(list(range(len(pending))))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=_trials_at_once(settings, cluster)
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(folder),
                verbose=0,
                callbacks=[outcomes],
                failure_config=tune.FailureConfig(max_failures=cluster.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    return outcomes.failures(store)


def _quieten_tune() -> None:
    """Tune reads these when it is imported or run. Without its SIGINT handler, Ctrl-C ends the command."""
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told once, by us


def _bundles(settings: TrainingSettings, cluster: Cluster) -> list[dict[str, float]]:
    """What a trial takes: a bundle for itself, its only rank; else an empty one and one for each rank."""
    bundle: dict[str, float] = {"CPU": settings.threads}
    if cluster.gpus:
        bundle["GPU"] = cluster.gpu_share
    return [bundle] if settings.workers == 1 else [{}, *[bundle] * settings.workers]


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """A folder for what Tune writes, gone after."""
    folder = locking.scratch(store.local_root or Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
