"""A training as a trial of Ray Tune, and what its driver hears. Imported late: ray.tune is slow to import."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from harness.cluster.gang import Gang
from harness.cluster.rank import Rank
from harness.errors import Failed, HarnessError
from harness.networks.training import TrainingSettings
from harness.results import checkpoints
from harness.results.store import Store
from harness.study.trainings import Network


@dataclass(frozen=True)
class SharedWork:
    """What all trials of a sweep share; a trial's setting is its position in ``pending``.

    ``material``: a reference to the ``Material``. ``interface``: see ``Rank.join``. ``rank_class``: that of
    the ranks.
    """

    store: Store
    pending: list[Network]
    material: Any
    interface: str | None
    rank_class: type[Rank]

    def ranks(self, settings: TrainingSettings) -> Rank | Gang:
        """The one rank of a training, in this process, or several on actors of their own."""
        if settings.workers == 1:
            return self.rank_class(self.store, ray.get(self.material), threads=settings.threads)
        return Gang(self.rank_class, self.store, self.material, settings, self.interface)


class Trial(tune.Trainable):
    """Holds the ranks and moves them from cell to cell."""

    def setup(self, config: dict[str, Any], work: SharedWork) -> None:  # type: ignore[override]
        """Tune's ``config`` says which cell is first; tune.with_parameters adds ``work``."""
        self._work = work
        self._ranks = work.ranks(work.pending[config["position"]].settings)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next cell.

        Its files are left alone until the first step: Tune sets up actors that it then drops for others.
        """
        self._network, self._opened = self._work.pending[new_config["position"]], False
        return True

    def step(self) -> dict[str, Any]:
        """The row of an epoch more, and whether it is the last; the first step opens the cell.

        A mistake of the study comes back as ``failure``; anything else is raised, for Tune to try again.
        """
        try:
            # A rank may have died between writing the cell and saying so; another study's driver may have
            # been faster.
            if self._work.store.is_done(self._network.cell):
                return self._last_row()
            return self._epoch()
        except (HarnessError, ray.exceptions.RayTaskError) as error:
            cause = getattr(error, "cause", error)
            if not isinstance(cause, HarnessError):
                raise
            return {"failure": str(cause), "done": True}

    def _last_row(self) -> dict[str, Any]:
        """Of a cell that is there."""
        checkpoints.drop(self._work.store.folder, self._network.cell)
        return {**self._work.store.read(self._network.cell).to_pylist()[-1], "done": True}

    def _epoch(self) -> dict[str, Any]:
        if not self._opened:
            self._ranks.open(self._network)
            self._opened = True
        return self._ranks.epoch()

    def cleanup(self) -> None:
        if isinstance(self._ranks, Gang):
            self._ranks.end()


class Outcomes(tune.Callback):
    """Hands on the rows of ``pending`` as they come, and keeps why trainings failed."""

    def __init__(self, pending: list[Network], on_row: Callable[[Network, dict[str, Any]], None]) -> None:
        self._pending, self._on_row = pending, on_row
        self._failed: dict[int, Failed] = {}  # position -> the study's mistake, by the trial's own account
        self._crashed: dict[int, Failed] = {}  # position -> the last error that Tune met

    def __reduce__(self) -> Any:
        return tune.Callback, ()  # Tune pickles its settings for a restore of its own, which is not used

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        position = trial.config["position"]
        if "failure" in result:
            self._failed[position] = Failed(result["failure"])
        else:
            self._on_row(self._pending[position], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = _error_of(trial)
        reason = text.splitlines()[-1] if text else "its process ended again and again"
        self._crashed[trial.config["position"]] = Failed(reason, text)

    def failures(self, store: Store) -> dict[int, Failed]:
        """Position -> why it failed.

        Not every way in which Tune gives a trial up leaves an error: what counts is whether the cell is
        there.
        """
        failures = dict(self._failed)
        for position, network in enumerate(self._pending):
            if position not in failures and not store.is_done(network.cell):
                failures[position] = self._crashed.get(position, Failed("its process ended again and again"))
        return failures


def _error_of(trial: Any) -> str:
    """What Tune knows of a trial's last error, "" where it knows nothing."""
    for name in ("get_pickled_error", "get_error"):  # not all versions of Tune have both
        error = getattr(trial, name, lambda: None)()
        if error:
            return str(error).strip()
    return ""
