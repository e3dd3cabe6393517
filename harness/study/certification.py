"""The certification of a study: a cell for each network and seed."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from harness.results.cells import Cell
from harness.study.evaluations import in_white_box
from harness.study.spec import Study
from harness.study.trainings import Ground, Network

REVISION = 0  # goes up when the same settings certify or attack in another way


@dataclass(frozen=True)
class PlannedCertificate:
    """One cell of table ``certified``: the radii of one network."""

    cell: Cell
    network: Network


def certificates_of(ground: Ground, networks: Iterable[Network]) -> list[PlannedCertificate]:
    """The networks that the study certifies among these, all of one seed."""
    return [PlannedCertificate(_cell(ground, network), network) for network in _named(ground.study, networks)]


def _named(study: Study, networks: Iterable[Network]) -> list[Network]:
    if study.certify is None:
        return []
    if study.certify.networks is None:
        return in_white_box(study, networks)
    names = {*study.certify.networks}
    return [network for network in networks if {network.name, network.entry} & names]


def _cell(ground: Ground, network: Network) -> Cell:
    """Radii that tables ask for are no part of it: they change no value."""
    spec = ground.study.certify
    assert spec is not None
    identity = {
        "data": ground.data["test"],
        "batch_size": ground.study.batch_size,
        "images": spec.images,
        "sandwich": spec.sandwich,
        **({"revision": REVISION} if REVISION else {}),
        **ground.code_of(network.architecture),
    }
    columns = {**network.columns, **asdict(spec.smoothing)}
    title = f"certified radii of {ground.title(network.title, network.seed)}"
    return Cell("certified", ground.partition(), columns, identity, (network.cell,), title=title)
