"""The ranks of a training of several workers, used as one. Imported late: ray is slow to import."""

from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from harness.cluster.rank import GANG_TIMEOUT_S, Rank
from harness.networks.training import TrainingSettings
from harness.results.store import Store
from harness.study.trainings import Network


class Gang:
    """Ranks on actors in the trial's placement group, joined to a process group; used as one ``Rank`` is."""

    def __init__(
        self,
        rank_class: type[Rank],
        store: Store,
        material: Any,
        settings: TrainingSettings,
        interface: str | None,
    ) -> None:
        """``rank_class``: that of the ranks. ``material``: a reference; Ray maps what it names in each.

        Raises as ``Rank.join`` does, and where a rank is lost or silent before all have joined.
        """
        group = ray.util.get_current_placement_group()
        assert group is not None, "a trial runs in its placement group"
        # Any bundle of the trial's: they are alike, one for each rank (Tune drops the empty first one).
        bundle = group.bundle_specs[-1]
        actor = ray.remote(rank_class).options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )
        world = settings.workers
        self._ranks: list[Any] = [
            actor.remote(store, material, rank, world, settings.threads) for rank in range(world)
        ]
        try:
            self._join(interface)
        except Exception:
            # A rank lost in setup would leave Tune waiting for ever: end the others and let Tune start again.
            self.end()
            raise

    def _join(self, interface: str | None) -> None:
        (address,) = _answers([self._ranks[0].address.remote()], GANG_TIMEOUT_S)
        _answers([rank.join.remote(address, interface) for rank in self._ranks], GANG_TIMEOUT_S)

    def open(self, network: Network) -> None:
        """Every rank's ``Rank.open``."""
        _answers([rank.open.remote(network) for rank in self._ranks])

    def epoch(self) -> dict[str, Any]:
        """Every rank's ``Rank.epoch``; rank 0's row."""
        row: dict[str, Any] = _answers([rank.epoch.remote() for rank in self._ranks])[0]
        return row

    def end(self) -> None:
        """End the ranks' processes."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []


def _answers(calls: list[Any], timeout_s: float | None = None) -> list[Any]:
    """What the ranks return; what one of them raises is raised at once, as the others may be waiting for it.

    Raises TimeoutError where none answers for ``timeout_s``, RuntimeError where a rank was lost.
    """
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
    answers: list[Any] = ray.get(calls)
    return answers
