"""Every cell that a study consists of, from its settings alone: nothing is computed here.

A cell's spec holds what determines its numbers and nothing else, so that studies share what they
have in common and a changed setting makes anew only what depends on it. Worker and thread counts are
left out: they change at most the last bits of a training. A method's ``revision`` is in it above 0: code
that computes something else under the same settings never serves old results.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.results.cells import Cell
from harness.study.attacks import PlannedAttack, attacks_on, training_images
from harness.study.checks import PlannedCheck, checks_of
from harness.study.evaluations import Evaluation, black_box_of, in_white_box, measured_on, white_box_of
from harness.study.spec import Study
from harness.study.trainings import (
    Available,
    Ground,
    Network,
    base_network,
    defended_network,
    finished_model,
)

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Plan:
    """A study's cells, by what they are for; all seeds one after the other.

    ``tested``: all networks, once for each seed whose attacks they meet. ``white_box`` are attacks made on
    each network; what the base networks' attacks measured already is in ``measured``. ``planned`` says what
    each evaluation is of, in the order of the tables.
    """

    ground: Ground
    bounds: Mapping[str, Cell]
    bases: tuple[Network, ...]
    attacks: tuple[PlannedAttack, ...]
    defended: tuple[Network, ...]
    models: tuple[Network, ...]
    tested: tuple[Network, ...]
    black_box: tuple[Evaluation, ...]
    white_box: tuple[PlannedAttack, ...]
    measured: tuple[Evaluation, ...]
    checks: tuple[PlannedCheck, ...] = ()

    @property
    def study(self) -> Study:
        return self.ground.study

    @property
    def code(self) -> Mapping[str, str]:
        """The packages from outside that the study names, with the digests of their sources."""
        return {package: digest for package, digest in self.ground.code.items() if digest}

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, the base networks first, finished models last."""
        return (*self.bases, *self.defended, *self.models)

    def trained_by(self, step: str) -> tuple[Network, ...]:
        """The networks of the step 'base-network', 'defense' or 'baselines'."""
        return tuple(network for network in self.networks if network.step == step)

    def white_box_cells(self) -> list[Cell]:
        """The white box's, network by network."""
        made = [cell for attack in self.white_box for cell in attack.cells]
        return [*(evaluation.cell for evaluation in self.measured), *made]

    def cells(self) -> list[Cell]:
        """All cells."""
        attacks = [cell for attack in self.attacks for cell in attack.cells]
        networks = [network.cell for network in self.networks]
        black_box = [evaluation.cell for evaluation in self.black_box]
        checks = [check.cell for check in self.checks]
        return [*self.bounds.values(), *attacks, *networks, *black_box, *self.white_box_cells(), *checks]


def packages(study: Study) -> tuple[str, ...]:
    """The top-level packages from outside whose code a study names."""
    networks = (study.network, *study.models.values())
    named = [entry.package for entry in networks]
    named += [entry.package for entry in (*study.attacks.values(), *study.white_box.own.values())]
    named += [entry.package for entry in study.defenses.values()]
    return tuple(dict.fromkeys(package for package in named if package))


def plan(
    study: Study,
    fingerprint: str,
    weights: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a study on the data with this fingerprint.

    ``weights``: digests of the files that networks start with, by their names (base, and finished models);
    ``code``: digests of the ``packages``, by name.
    """
    data = {split: _images(study, fingerprint, split) for split in SPLITS}
    ground = Ground(study, data, weights or {}, code or dict.fromkeys(packages(study), ""))
    bounds = {split: _bound(ground, split) for split in SPLITS}
    bases = tuple(base_network(ground, seed) for seed in study.seeds)
    models = tuple(finished_model(ground, name) for name in study.models)
    attacks: list[PlannedAttack] = []
    defended: list[Network] = []
    tested: list[Network] = []
    black_box: list[Evaluation] = []
    white_box: list[PlannedAttack] = []
    measured: list[Evaluation] = []
    checks: list[PlannedCheck] = []
    for base in bases:
        mine = list(attacks_on(ground, base))
        others = tuple(other for other in bases if other is not base)
        available = Available(base, bounds["train"], training_images(mine), others)
        networks = [defended_network(ground, name, s, available) for name, s in study.networks()]
        attacks += mine
        defended += networks
        met = (base, *networks, *(replace(model, seed=base.seed) for model in models))
        tested += met
        for network in met:
            black_box += black_box_of(ground, network, mine)
        for network in in_white_box(study, met):
            measured += measured_on(ground, network, mine)
            white_box += white_box_of(ground, network)
        for network in met:
            own = [attack for attack in white_box if attack.network is network]
            checks += checks_of(ground, network, base, own, mine)
    return Plan(
        ground,
        bounds,
        bases,
        tuple(attacks),
        tuple(defended),
        models,
        tuple(tested),
        tuple(black_box),
        tuple(white_box),
        tuple(measured),
        tuple(checks),
    )


# --- images and the bound ---------------------------------------------------------------------------------


def _images(study: Study, fingerprint: str, split: str) -> dict[str, Any]:
    """What determines the images of a split; the seed only where a subset is drawn."""
    dataset = study.dataset
    limit = dataset.train_limit if split == "train" else dataset.test_limit
    is_drawn = limit is not None or dataset.classes is not None
    return {
        "fingerprint": fingerprint,
        "split": split,
        "classes": dataset.classes,
        "limit": limit,
        "seed": dataset.seed if is_drawn else None,
    }


def _bound(ground: Ground, split: str) -> Cell:
    identity = {"queries": ground.data[split], "database": ground.data["train"]}
    return Cell("bound", ground.partition(split=split), {}, identity, title=f"bound of the {split} images")
