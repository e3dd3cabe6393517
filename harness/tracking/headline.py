"""What is said of a network first: its robust accuracy, credit and verdict, as the report's views say it.

The worst case is over all that was measured within the radius, the white box included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.report.database import connect, query
from harness.report.recorded import Row
from harness.report.tables.numbers import with_interval
from harness.results.store import Store

# Which metrics a group of the view `headline` becomes: all accuracies stand in the group that comes first.
_GROUPS = {"robust": "acc/", "certified": "acc/certified_"}
# Rounded: the last bits of a mean depend on the order in which threads add, and runs are told by digests.
_METRICS = """
    select name, seed, metric, round(avg(value), 4) as value from headline
    group by grouping sets ((name, seed, metric), (name, metric)) order by name, seed, metric
"""
# Of each seed's network, and of null the mean over the seeds, which finished models have.
_COVERED = """
    with covered as (
        select study, norm, epsilon, name, seed, images, accuracy, low, high, attacks, missing, is_complete
        from robust
        union all by name
        select study, norm, epsilon, name, images, accuracy, low, high, attacks, missing, is_complete
        from robust_over_seeds
    ), beside as (
        select study, norm, epsilon, name, seed, control_title, control_accuracy, credit, low, high
        from credit where access = 'robust'
        union all by name
        select study, norm, epsilon, name, control_title, control_accuracy, credit, low, high
        from credit_over_seeds where access = 'robust'
    )
    select c.*, epsilon_text(c.epsilon) as radius, b.control_title, b.control_accuracy, b.credit,
           b.low as credit_low, b.high as credit_high, s.better
    from covered c
    join printed_threat_models p on p.study = c.study and p.norm = c.norm and p.epsilon = c.epsilon
    left join beside b
        on b.study = c.study and b.norm = c.norm and b.epsilon = c.epsilon and b.name = c.name
        and b.seed is not distinct from c.seed
    left join credit_over_seeds s
        on s.access = 'robust' and s.study = c.study and s.norm = c.norm and s.epsilon = c.epsilon
        and s.name = c.name
    order by c.norm
"""
_FIRST = """
    select 'robust/' || norm || '_' || epsilon_text(epsilon) as metric
    from printed_threat_models join threat_models using (study, norm, epsilon)
    order by attacks desc, norm desc limit 1
"""
_BETTER = {
    "yes": "better than the control",
    "no": "no better than the control",
    "not shown": "not shown to be better or worse than the control",
}


@dataclass(frozen=True)
class Headline:
    """Of one network: ``metrics``, ``tags`` (verdict, reason), and ``lines`` that say what they cover."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Headlines:
    """Those of a study by name and seed; of seed None the means over the seeds, for finished models.

    ``first``: the metric by which its networks are put in order, None where no network has a robust accuracy.
    """

    title: str
    first: str | None
    networks: Mapping[tuple[str, int | None], Headline]

    def of(self, name: str, seed: int | None) -> Headline:
        return self.networks.get((name, seed), Headline())


def headlines(store: Store, study: str) -> Headlines:
    """Raises HarnessError where the results can't be read."""
    with connect(store, study) as connection:
        shares = query(connection, _METRICS).to_pylist()
        covered = query(connection, _COVERED).to_pylist()
        first = query(connection, _FIRST).to_pylist()
        verdicts = query(connection, "from verdicts").to_pylist()
        (about,) = query(connection, "from studies").to_pylist()
    metrics: dict[tuple[str, int | None], dict[str, float]] = {}
    for row in shares:
        metrics.setdefault((row["name"], row["seed"]), {})[_metric(row["metric"])] = row["value"]
    names = {row["name"]: row for row in verdicts}
    seeds = [*about["seeds"], None]
    networks = {
        (name, seed): Headline(
            metrics.get((name, seed), {}),
            _verdict(names[name]),
            _lines((row for row in covered if (row["name"], row["seed"]) == (name, seed)), names[name]),
        )
        for name in names
        for seed in seeds
    }
    measured = {metric for values in metrics.values() for metric in values}
    wanted = next((_metric(row["metric"]) for row in first), None)
    return Headlines(about["title"], wanted if wanted in measured else None, networks)


def _metric(quantity: str) -> str:
    """robust/linf_8/255 -> acc/linf_8_255: MLflow makes a group of what has a slash, and cuts long names."""
    group, name = quantity.split("/", 1)
    return _GROUPS.get(group, f"{group}/") + name.replace("/", "_")


def _verdict(row: Row) -> dict[str, str]:
    if row["verdict"] == "not checked":
        return {}
    return {"verdict": row["verdict"]} | ({"reason": row["reason"]} if row["reason"] else {})


# --- in words ---------------------------------------------------------------------------------------


def _lines(rows: Iterable[Row], verdict: Row) -> tuple[str, ...]:
    lines = [line for row in rows for line in _of_threat_model(row)]
    checks = verdict["verdict"] + (f": {verdict['reason']}" if verdict["reason"] else "")
    return (*(lines or ["**Robust**: no attack with a radius is planned on it."]), f"**Checks**: {checks}.")


def _of_threat_model(row: Mapping[str, Any]) -> list[str]:
    where = f"{row['norm']} {row['radius']}"
    if row["accuracy"] is None:
        return [f"**Robust at {where}**: not measured yet."]
    share = with_interval(row["accuracy"], row["low"], row["high"])
    words = "" if row["is_complete"] else "at most "
    robust = (
        f"**Robust at {where}**: {words}{share} % of {row['images']} test images are right when clean and "
    )
    robust += f"under every attack that was measured within the radius: {', '.join(row['attacks'])}."
    if row["missing"]:
        robust += f" Still to be made: {', '.join(row['missing'])}."
    elif not row["is_complete"]:
        robust += " None of them was made on this network itself, so it is no headline."
    return [robust, *_control(row, where)]


def _control(row: Mapping[str, Any], where: str) -> list[str]:
    if row["credit"] is None or row["better"] is None or not row["is_complete"]:
        return []
    credit = with_interval(row["credit"], row["credit_low"], row["credit_high"], "+")
    return [
        f"**Best control at {where}**: {row['control_title']}, {row['control_accuracy']:.1f} %. Credit, this "
        f"network minus it: {credit} points; {_BETTER[row['better']]}."
    ]
