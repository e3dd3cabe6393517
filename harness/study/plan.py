"""Every cell that a study consists of, from its settings alone: nothing is computed here.

A cell's spec holds what determines its numbers and nothing else, so that studies share what they
have in common and a changed setting makes anew only what depends on it. Worker and thread counts are
left out: they change at most the last bits of a training. A method's ``revision`` is in it above 0: code
that computes something else under the same settings never serves old results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.results.cells import Cell
from harness.study.attacks import PlannedAttack, attacks_on, training_images
from harness.study.certification import PlannedCertificate, certificates_of
from harness.study.checks import PlannedCheck, checks_of
from harness.study.controls import TWIN
from harness.study.evaluations import (
    Evaluation,
    black_box_of,
    copied_to_twin,
    in_white_box,
    measured_on,
    on_validation_images,
    white_box_of,
)
from harness.study.spec import Study
from harness.study.trainings import (
    Available,
    Ground,
    Network,
    base_network,
    control_network,
    defended_network,
    finished_model,
    twin_of,
)

SPLITS = ("train", "test")  # that have a bound


@dataclass(frozen=True)
class Plan:
    """A study's cells, by what they are for; all seeds one after the other.

    ``tested``: all networks, once for each seed whose attacks they meet. ``black_box``: on test images, and
    on ``validation`` images what is chosen on them. ``white_box`` are attacks made on each network; what the
    base networks' attacks measured already is in ``measured``, what is measured on a base network that is
    another's twin in ``copied``. ``sample``: pictures of some test images, None where none are kept.
    """

    ground: Ground
    bounds: Mapping[str, Cell]
    classes: Cell
    sample: Cell | None
    bases: tuple[Network, ...]
    attacks: tuple[PlannedAttack, ...]
    defended: tuple[Network, ...]
    controls: tuple[Network, ...]
    models: tuple[Network, ...]
    tested: tuple[Network, ...]
    black_box: tuple[Evaluation, ...]
    validation: tuple[Evaluation, ...]
    white_box: tuple[PlannedAttack, ...]
    measured: tuple[Evaluation, ...]
    copied: tuple[Evaluation, ...]
    checks: tuple[PlannedCheck, ...] = ()
    certified: tuple[PlannedCertificate, ...] = ()

    @property
    def study(self) -> Study:
        return self.ground.study

    @property
    def code(self) -> Mapping[str, str]:
        """The packages from outside that the study names, with the digests of their sources."""
        return {package: digest for package, digest in self.ground.code.items() if digest}

    @property
    def of_images(self) -> list[Cell]:
        """What follows from the images alone: their bound, the names of their classes, pictures of some."""
        return [*self.bounds.values(), self.classes, *([self.sample] if self.sample else [])]

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks that are trained or read, the base networks first, finished models last."""
        return (*self.bases, *self.defended, *self.controls, *self.models)

    def trained_by(self, step: str) -> tuple[Network, ...]:
        """The networks of the step 'base-network', 'defense' or 'baselines'."""
        return tuple(network for network in self.networks if network.step == step)

    def white_box_cells(self) -> list[Cell]:
        """The white box's, network by network."""
        made = [cell for attack in self.white_box for cell in attack.cells]
        measured, copied = ([each.cell for each in part] for part in (self.measured, self.copied))
        return [*measured, *made, *copied]

    def black_box_cells(self) -> list[Cell]:
        """Every network on images made on the base network, validation images last."""
        return [evaluation.cell for evaluation in (*self.black_box, *self.validation)]

    def cells(self) -> list[Cell]:
        """All cells."""
        attacks = [cell for attack in self.attacks for cell in attack.cells]
        networks = [network.cell for network in self.networks]
        evaluations = [*self.black_box_cells(), *self.white_box_cells()]
        checks = [check.cell for check in self.checks]
        certified = [planned.cell for planned in self.certified]
        return [*self.of_images, *attacks, *networks, *evaluations, *checks, *certified]


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
    splits = (*SPLITS, *(["validation"] if study.dataset.validation_limit else []))
    data = {split: _images(study, fingerprint, split) for split in splits}
    ground = Ground(
        study,
        data,
        data["test"] | _attacked(study),
        weights or {},
        code or dict.fromkeys(packages(study), ""),
    )
    bounds = {split: _bound(ground, split) for split in SPLITS}
    bases = tuple(base_network(ground, seed) for seed in study.seeds)
    models = tuple(finished_model(ground, name) for name in study.models)
    twins = _twins(study, bases)
    attacks: list[PlannedAttack] = []
    defended: list[Network] = []
    controls: list[Network] = []
    tested: list[Network] = []
    black_box: list[Evaluation] = []
    validation: list[Evaluation] = []
    white_box: list[PlannedAttack] = []
    measured: list[Evaluation] = []
    checks: list[PlannedCheck] = []
    certified: list[PlannedCertificate] = []
    for base in bases:
        mine = list(attacks_on(ground, base))
        others = tuple(other for other in bases if other is not base)
        available = Available(base, bounds["train"], training_images(mine), others)
        networks = [defended_network(ground, name, s, available) for name, s in study.networks()]
        compared = [control_network(ground, name, s, available) for name, s in study.controls_trained()]
        attacks += mine
        defended += networks
        controls += compared
        met = [base, *networks, *compared, *(replace(model, seed=base.seed) for model in models)]
        both = [*met, *([twins[base.seed][0]] if twins else [])]
        tested += both
        for network in both:
            black_box += black_box_of(ground, network, mine)
        for network in on_validation_images(study, met):
            validation += black_box_of(ground, network, mine, "validation")
        for network in in_white_box(study, met):
            measured += measured_on(ground, network, mine)
            white_box += white_box_of(ground, network)
        for network in met:
            own = [attack for attack in white_box if attack.network is network]
            checks += checks_of(ground, network, base, own, mine)
        certified += certificates_of(ground, met)
    copied: list[Evaluation] = []
    for twin, other in twins.values():
        known = [evaluation for evaluation in measured if evaluation.network is other]
        copied += copied_to_twin(ground, twin, known, [a for a in white_box if a.network is other])
    return Plan(
        ground,
        bounds,
        _classes(ground, fingerprint),
        _sample(ground, bounds["test"]),
        bases,
        tuple(attacks),
        tuple(defended),
        tuple(controls),
        models,
        tuple(tested),
        tuple(black_box),
        tuple(validation),
        tuple(white_box),
        tuple(measured),
        tuple(copied),
        tuple(checks),
        tuple(certified),
    )


def _twins(study: Study, bases: Sequence[Network]) -> dict[int, tuple[Network, Network]]:
    """Seed -> the twin of its base network, and the base network of the next seed that this is."""
    if TWIN in study.controls_left_out():
        return {}
    pairs = zip(bases, (*bases[1:], bases[0]), strict=True)
    return {base.seed: (twin_of(base, other), other) for base, other in pairs}


# --- images and the bound ---------------------------------------------------------------------------------


def _images(study: Study, fingerprint: str, split: str) -> dict[str, Any]:
    """What determines the images of a split; the seed only where a subset is drawn."""
    dataset = study.dataset
    limit = dataset.test_limit if split == "test" else dataset.train_limit
    held_out: dict[str, Any] = {}
    if split != "test" and dataset.validation_limit is not None:
        held_out["validation"] = dataset.validation_limit
    is_drawn = limit is not None or dataset.classes is not None or bool(held_out)
    return {
        "fingerprint": fingerprint,
        "split": split,
        "classes": dataset.classes,
        "limit": limit,
        "seed": dataset.seed if is_drawn else None,
        **held_out,
    }


def _attacked(study: Study) -> dict[str, Any]:
    """What determines which of the test images are in the white box; nothing where all are."""
    dataset = study.dataset
    return (
        {}
        if dataset.white_box_limit is None
        else {"white_box": dataset.white_box_limit, "seed": dataset.seed}
    )


def _bound(ground: Ground, split: str) -> Cell:
    identity = {"queries": ground.data[split], "database": ground.data["train"]}
    return Cell("bound", ground.partition(split=split), {}, identity, title=f"bound of the {split} images")


def _classes(ground: Ground, fingerprint: str) -> Cell:
    """The names of the classes that are kept, whichever images of them are."""
    dataset = ground.study.dataset
    drawn = {"classes": dataset.classes, "seed": dataset.seed} if dataset.classes is not None else {}
    identity = {"fingerprint": fingerprint, **drawn}
    return Cell("classes", ground.partition(), {}, identity, title="names of the classes")


def _sample(ground: Ground, bound: Cell) -> Cell | None:
    """Pictures of test images, drawn by their ``bound``."""
    count = ground.study.pictures
    identity = {
        "images": ground.data["test"],
        "database": ground.data["train"],
        "neighbours": ground.study.neighbours,
        "count": count,
    }
    title = f"pictures of {count} test images"
    return Cell("sample", ground.partition(), {}, identity, (bound,), title=title) if count else None
