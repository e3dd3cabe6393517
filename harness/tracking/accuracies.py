"""The accuracies of a network under each attack as metrics: groups `black_box/` and `white_box/`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.results.store import Store
from harness.tracking.params import plain

CLEAN = "acc/clean"
WORST = "black_box/_worst"  # of the black box alone; with the white box it is the headline's

Evaluation = tuple[str, Mapping[str, Any]]  # path and metadata of an evaluation's cell


@dataclass(frozen=True)
class Names:
    """Names of metrics. ``several``: (access, attack) with several epsilons, which stand in their names.

    ``black_box``: all of a study, whatever network.
    """

    several: frozenset[tuple[str, str]]
    black_box: tuple[str, ...]


def names(evaluations: Iterable[Evaluation]) -> Names:
    """For all evaluations of a study."""
    metas = [meta for _, meta in evaluations]
    found = {(_attack(meta), meta["columns"]["epsilon"]) for meta in metas}
    several = frozenset(
        attack for attack, count in Counter(attack for attack, _ in found).items() if count > 1
    )
    black_box = [meta for meta in metas if meta["partition"]["access"] == "black_box"]
    black_box.sort(key=lambda meta: (meta["columns"]["attack"], meta["columns"]["epsilon"] or 0))
    return Names(several, tuple(dict.fromkeys(_name(meta, several) for meta in black_box)))


def accuracies(store: Store, evaluations: list[Evaluation], named: Names) -> dict[str, float]:
    """Metric -> share of images classified correctly; a finished model's are means over the seeds."""
    seeds = dict.fromkeys(meta["columns"]["seed"] for _, meta in evaluations)
    by_seed = [
        _of_one_seed(store, [each for each in evaluations if each[1]["columns"]["seed"] == seed], named)
        for seed in seeds
    ]
    measured = dict.fromkeys(metric for mine in by_seed for metric in mine)
    return {
        name: round(float(np.mean([mine[name] for mine in by_seed])), 4)
        for name in measured
        if all(name in mine for mine in by_seed)
    }


def _of_one_seed(store: Store, evaluations: Iterable[Evaluation], named: Names) -> dict[str, float]:
    black_box, white_box, ids = {}, {}, None
    for path, meta in evaluations:
        rows = store.rows(path).sort_by("image_id")
        right = rows["label"].to_numpy() == rows["prediction"].to_numpy()
        name = _name(meta, named.several)
        if meta["partition"]["access"] == "white_box":
            white_box[name] = float(right.mean())  # perhaps of a part of the images
            continue
        ids = rows["image_id"].to_numpy() if ids is None else ids
        assert np.array_equal(ids, rows["image_id"].to_numpy()), "black-box evaluations are of other images"
        black_box[name] = right
    worst = {}
    # The worst of fewer attacks than the other networks met is not comparable with theirs.
    if named.black_box and black_box.keys() == {CLEAN, *named.black_box}:
        worst[WORST] = float(np.logical_and.reduce(list(black_box.values())).mean())
    return {name: float(right.mean()) for name, right in black_box.items()} | worst | white_box


def _attack(meta: Mapping[str, Any]) -> tuple[str, str]:
    return meta["partition"]["access"], meta["columns"]["attack"]


def _name(meta: Mapping[str, Any], several: frozenset[tuple[str, str]]) -> str:
    """white_box/pgd_div_4_8_255: each epsilon and step size by itself, so that all charts are bars.

    A curve over epsilon would have MLflow's 'Step' as its axis.
    """
    from harness.settings import epsilon_text  # with pydantic, which a sync without news does without

    access, attack = _attack(meta)
    if access == "clean":
        return CLEAN
    epsilon, step_size = meta["columns"]["epsilon"], meta["columns"]["step_size"]
    name = f"{access}/{attack}"
    if step_size is not None and access == "white_box":
        name += f"_div_{plain(round(epsilon / step_size, 6))}"
    if epsilon is not None and (access, attack) in several:
        name += f"_{epsilon_text(epsilon).replace('/', '_')}"
    return name
