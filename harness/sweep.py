"""Ray Tune over trainings, each of them DDP over its workers: one code path for 0, 1 and N GPUs.

A trial is a class Trainable whose actor Tune reuses from cell to cell, so that torch is imported and
the data mapped once; a second cell costs milliseconds. The documented alternative, a function that
builds a TorchTrainer, was measured at 20 to 30 s a trial (a controller and new worker processes each
time) and hides its workers' resources from Tune, which then cannot run as many trials as fit. A
training of one worker runs in the trial's own process; only more than one get a gang of ranks in the
trial's placement group.

Tune's own checkpoints are not used: each epoch replaces the cell's checkpoint in the store, so that a
training goes on after the loss of a rank, of the trial or of the driver alike.
"""

import io
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import baselines, checkpoints, defense, locking, networks, nodes, seeds, training
from harness.cells import hardware
from harness.cluster import Cluster
from harness.datasets import Images
from harness.errors import Failed, HarnessError, attempt
from harness.plan import Network
from harness.spec import NetworkSpec, TrainingSpec
from harness.store import Store

OBJECTIVES: dict[str, Callable[[training.Inputs, dict[str, Any]], training.Objective]] = {
    "base": training.supervised,
    "vib": defense.objective,
    "adversarial": baselines.adversarial,
}
_GANG_TIMEOUT_S = 120  # a rank that dies while the others wait for it must not hang the trial for ever


@dataclass(frozen=True)
class Material:
    """What every training of a sweep shares: read-only arrays, put into the object store once."""

    seed: int
    network: NetworkSpec
    classes: int
    train: Images
    test: Images
    base: dict[str, np.ndarray] | None = None  # weights of f1, where trainings start from it
    distance: np.ndarray | None = None  # float32 [N], of the bound
    teacher: np.ndarray | None = None  # float32 [N, classes]


class Rank:
    """One worker of a training; the only one, in the trial's own process, where the world is 1."""

    def __init__(
        self, store: Store, material: Material, rank: int = 0, world: int = 1, threads: int = 1
    ) -> None:
        torch.set_num_threads(threads)
        self._store, self._material, self._rank, self._world = store, material, rank, world

    def address(self) -> str:
        """Where the other ranks find rank 0."""
        import ray.util

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def join(self, address: str, interface: str | None) -> None:
        """Form the process group: NCCL on GPUs, gloo on CPUs, over the named network interface or that of Ray's address."""
        import ray.util

        if interface and interface not in nodes.interfaces():
            raise HarnessError(
                f"compute.interface: there is no '{interface}', only {', '.join(nodes.interfaces())}"
            )
        # Left alone, gloo takes the one of the host's name, which on Debian is loopback. NCCL takes a name as a prefix but for '='.
        if name := interface or nodes.interface_of(ray.util.get_node_ip_address()):
            for variable, value in (("GLOO_SOCKET_IFNAME", name), ("NCCL_SOCKET_IFNAME", f"={name}")):
                os.environ[variable] = value if interface else os.environ.get(variable, value)
        backend = "nccl" if networks.device().type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend,
            init_method=address,
            rank=self._rank,
            world_size=self._world,
            timeout=timedelta(seconds=_GANG_TIMEOUT_S),
        )

    def open(self, network: Network) -> None:
        """Start a training, or go on where its checkpoint says."""
        material, on = self._material, networks.device()
        seed = seeds.derive(
            material.seed, "training", network.kind, *(repr(v) for v in network.settings.values())
        )
        model = networks.build(
            material.network, material.train.pixels, material.classes, seed, initial=network.kind == "base"
        )
        if network.kind != "base":
            assert material.base is not None, "a fine-tuning needs f1"
            networks.from_tensors(model, material.base, on)
        objective = OBJECTIVES[network.kind](self._inputs(network, on), {**network.settings, "seed": seed})
        self._network = network
        self._training = training.Training(
            model, objective, network.spec, seed, material.test, self._rank, self._world
        )
        if found := checkpoints.load(self._store.folder, network.cell):
            self._training.restore(found[0], found[1]["rows"])
        else:
            self._training.start()
        self._agree()
        self._finish()

    def _agree(self) -> None:
        """Raise RuntimeError, for Tune to try again, where a shared folder showed the ranks different checkpoints."""
        if self._world > 1:
            epochs: list[Any] = [None] * self._world
            torch.distributed.all_gather_object(epochs, self._training.epoch)
            if len(set(epochs)) > 1:
                raise RuntimeError(f"the ranks found checkpoints of different epochs: {epochs}")

    def _inputs(self, network: Network, on: torch.device) -> training.Inputs:
        """The material on the device, with the adversarial images where the training uses some."""

        def optional(value: np.ndarray | None) -> torch.Tensor | None:
            return None if value is None else networks.to_tensor(value, on)

        train, material = self._material.train, self._material
        pixels, labels, ids = (
            networks.to_tensor(value, on) for value in (train.pixels, train.labels, train.ids)
        )
        made = (
            None if network.adversarial is None else self._store.tensors(network.adversarial)["adversarial"]
        )
        return training.Inputs(
            pixels, labels, ids, optional(material.distance), optional(material.teacher), optional(made)
        )

    def epoch(self) -> dict[str, Any]:
        """One epoch more, if one is left; the last row, and whether the training is done."""
        if not self.done():
            self._training.run_epoch()
            self._finish()
        return {**self._training.rows[-1], "done": self.done()}

    def done(self) -> bool:
        return self._training.epoch >= self._network.spec.epochs

    def _finish(self) -> None:
        """Keep the epoch; after the last one write the cell. Rank 0 does so for all."""
        if self._rank:
            return
        cell, rows = self._network.cell, self._training.rows
        if not self.done():
            checkpoints.save(self._store.folder, cell, self._training.state(), {"rows": rows})
            return
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self._store.write(cell, columns, networks.to_tensors(self._training.network), **hardware())
        checkpoints.drop(self._store.folder, cell)


def fit(
    pending: list[Network],
    material: Material,
    store: Store,
    cluster: Cluster,
    on_row: Callable[[Network, dict[str, Any]], None],
) -> list[tuple[Network, Failed]]:
    """Train all of ``pending`` (of one TrainingSpec's workers and threads) and write their cells; those that failed, and why.

    Raises HarnessError where they do not fit the cluster.
    """
    if not pending:
        return []
    spec = pending[0].spec
    if not cluster.local and not _trials_at_once(spec, cluster):
        raise HarnessError(
            f"a training of {spec.workers} workers with {spec.threads} cores each does not fit the {cluster.workers} "
            f"{'GPUs' if cluster.gpus else 'cores'} that the study may use (compute.workers)"
        )
    if spec.workers > 1 and 0 < cluster.gpu_share < 1:
        raise HarnessError(
            f"a training of {spec.workers} workers needs a GPU for each: compute.workers is more than the {cluster.gpus:g} GPUs"
        )
    failed = (
        _fit_here(pending, material, store, on_row)
        if cluster.local
        else _tune(pending, material, store, cluster, on_row)
    )
    return [(pending[position], failed[position]) for position in sorted(failed)]


def _trials_at_once(spec: TrainingSpec, cluster: Cluster) -> int:
    """Trainings side by side within what the study may use; how they fit the nodes is Tune's matter."""
    return cluster.workers // (spec.workers if cluster.gpus else spec.workers * spec.threads)


def _fit_here(
    pending: list[Network],
    material: Material,
    store: Store,
    on_row: Callable[[Network, dict[str, Any]], None],
) -> dict[int, Failed]:
    """One after the other in this process: no Ray, one worker each. Position -> why it failed."""
    threads = torch.get_num_threads()
    rank = Rank(store, material, threads=pending[0].spec.threads)

    def train(network: Network) -> None:
        rank.open(network)
        while not rank.done():
            on_row(network, rank.epoch())

    outcomes = [attempt(train, network) for network in pending]
    torch.set_num_threads(threads)
    return {position: outcome for position, outcome in enumerate(outcomes) if isinstance(outcome, Failed)}


def _tune(
    pending: list[Network],
    material: Material,
    store: Store,
    cluster: Cluster,
    on_row: Callable[[Network, dict[str, Any]], None],
) -> dict[int, Failed]:
    """A Tuner over the pending cells, as many trials at once as fit. Position -> why it failed."""
    # Tune reads these when it is imported or run. Without its SIGINT handler, Ctrl-C ends the command.
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    import ray
    from ray import tune

    world, threads = pending[0].spec.workers, pending[0].spec.threads
    bundle: dict[str, float] = {"CPU": threads} | ({"GPU": cluster.gpu_share} if cluster.gpus else {})
    bundles = [bundle] if world == 1 else [{}, *[bundle] * world]
    failed: dict[int, Failed] = {}
    crashed: dict[int, Failed] = {}

    class Rows(tune.Callback):
        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune pickles its settings for a restore of its own, which is not used

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            position = trial.config["position"]
            if "failure" in result:
                failed[position] = Failed(result["failure"])
            else:
                on_row(pending[position], result)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = trial.get_pickled_error() or trial.get_error()
            text = str(error).strip()
            crashed[trial.config["position"]] = Failed(
                text.splitlines()[-1] if text else "its process ended again and again", text
            )

    trial = tune.with_parameters(
        _trial_class(),
        store=store,
        material=(ray.put(material),),
        pending=pending,
        interface=cluster.interface,
    )
    scratch = locking.scratch(store.local_root or Path(tempfile.gettempdir()))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told once, by us
    try:
        # Tune prints a box even when asked for silence.
        with redirect_stdout(io.StringIO()):
            tune.Tuner(
                tune.with_resources(trial, tune.PlacementGroupFactory(bundles)),
                param_space={"position": tune.grid_search(list(range(len(pending))))},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=_trials_at_once(pending[0].spec, cluster)),
                run_config=tune.RunConfig(
                    name="sweep", storage_path=str(scratch), verbose=0, callbacks=[Rows()],
                    failure_config=tune.FailureConfig(max_failures=cluster.retries),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    # Not every way in which Tune gives a trial up leaves an error: what counts is whether the cell is there.
    for position, network in enumerate(pending):
        if position not in failed and not store.is_done(network.cell):
            failed[position] = crashed.get(position, Failed("its process ended again and again"))
    return failed


def _trial_class() -> type:
    """The Trainable, made when it is needed: ray.tune is slow to import."""
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    class Trial(tune.Trainable):
        """Holds the ranks and moves them from cell to cell."""

        def setup(  # type: ignore[override]  # tune.with_parameters adds the last four
            self,
            config: dict[str, Any],
            store: Store,
            material: Any,
            pending: list[Network],
            interface: str | None,
        ) -> None:
            self._pending = pending
            self._store = store
            # A reference, in a tuple so that Tune passes it on as it is; Ray maps what it names in each rank.
            (self._material,) = material
            self._ranks: list[Any] = []
            spec = pending[config["position"]].spec
            if spec.workers == 1:
                self._alone: Rank | None = Rank(store, ray.get(self._material), threads=spec.threads)
            else:
                self._alone = None
                self._gather(spec.workers, spec.threads, interface)
            self.reset_config(config)

        def _gather(self, world: int, threads: int, interface: str | None) -> None:
            group, actor = ray.util.get_current_placement_group(), ray.remote(Rank)
            assert group is not None, "a trial runs in its placement group"
            # Any bundle of the trial's: they are alike, one for each rank (Tune drops the empty first one).
            place, bundle = PlacementGroupSchedulingStrategy(group), group.bundle_specs[-1]
            options = {
                "num_cpus": bundle["CPU"],
                "num_gpus": bundle.get("GPU", 0),
                "scheduling_strategy": place,
            }
            self._ranks = [
                actor.options(**options).remote(self._store, self._material, rank, world, threads)
                for rank in range(world)
            ]
            try:
                (address,) = self._answers([self._ranks[0].address.remote()], _GANG_TIMEOUT_S)
                self._answers([rank.join.remote(address, interface) for rank in self._ranks], _GANG_TIMEOUT_S)
            except Exception:
                # A rank lost in setup would leave Tune waiting for ever: end the others and let Tune start again.
                self.cleanup()
                raise

        def _all(self, method: str, *arguments: Any) -> Any:
            """Call every rank; rank 0's answer."""
            if self._alone is not None:
                return getattr(self._alone, method)(*arguments)
            return self._answers([getattr(rank, method).remote(*arguments) for rank in self._ranks])[0]

        @staticmethod
        def _answers(calls: list[Any], timeout_s: float | None = None) -> list[Any]:
            """What the ranks return; what one of them raises is raised at once, as the others may be waiting for it."""
            waiting = calls
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1, timeout=timeout_s)
                if not done:
                    raise TimeoutError(f"the ranks of a training did not answer within {timeout_s} s")
                try:
                    ray.get(done)
                except ray.exceptions.RayActorError as error:
                    # As it is, Tune would take it for the loss of the trial's own actor.
                    raise RuntimeError(f"a rank of a training was lost: {error}") from None
            found: list[Any] = ray.get(calls)
            return found

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            """Take the next cell. Its files are left alone until the first step: Tune sets up actors that it then drops for others."""
            self._network, self._opened = self._pending[new_config["position"]], False
            return True

        def step(self) -> dict[str, Any]:
            """An epoch; the first step opens the cell."""
            try:
                # A rank may have died between writing the cell and saying so; another study's driver may have been faster.
                if self._store.is_done(self._network.cell):
                    checkpoints.drop(self._store.folder, self._network.cell)
                    return {**self._store.read(self._network.cell).to_pylist()[-1], "done": True}
                if not self._opened:
                    self._all("open", self._network)
                    self._opened = True
                row: dict[str, Any] = self._all("epoch")
                return row
            except (HarnessError, ray.exceptions.RayTaskError) as error:
                return {"failure": self._reason(error), "done": True}

        @staticmethod
        def _reason(error: Exception) -> str:
            """A mistake of the study is told once; anything else is raised for Tune to try again."""
            cause = getattr(error, "cause", error)
            if not isinstance(cause, HarnessError):
                raise error
            return str(cause)

        def cleanup(self) -> None:
            for rank in self._ranks:
                ray.kill(rank)
            self._ranks = []

    return Trial
