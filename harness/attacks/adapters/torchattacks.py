"""torchattacks' attacks: Kim 2020."""

import io
from contextlib import redirect_stdout
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.attacks.adapters.adapter import Adapter, Arguments, Case, Library, Made
from harness.attacks.adapters.arguments import arguments_of
from harness.attacks.attack import Norm

_RADII = ("eps", "max_epsilon")
_NORMS: dict[Any, Norm] = {"Linf": "linf", "L2": "l2", "L1": "l1"}
# Of classes without a radius, by their papers.
_NORM_OF: dict[str, Norm] = {
    "CW": "l2",
    "DeepFool": "l2",
    "EADEN": "l1",
    "EADL1": "l1",
    "JSMA": "l0",
    "OnePixel": "l0",
    "Pixle": "l0",
    "SparseFool": "l0",
}
_RADIUS = "is the radius: give it as 'epsilon', beside 'arguments'"
_OURS = {
    "model": "is the network, which the study names elsewhere",
    "eps": _RADIUS,
    "max_epsilon": _RADIUS,
    "n_classes": "is what the network has",
    "seed": "follows from the study's seeds",
    "verbose": "is set by the adapter: nothing is printed",
}


def _classes() -> dict[str, type]:
    import torchattacks
    from torchattacks.attack import Attack

    values = vars(torchattacks).items()
    return {name: cls for name, cls in values if isinstance(cls, type) and issubclass(cls, Attack)}


def _refusal(cls: type) -> str | None:
    return "leaves images as they are" if cls.__name__ == "VANILA" else None


def _radius(cls: type) -> str | None:
    return next((name for name in _RADII if name in arguments_of(cls)), None)


def _norm(cls: type, arguments: Arguments) -> Norm | None:
    known = arguments_of(cls)
    if "norm" in known:
        return _NORMS.get(arguments.get("norm", known["norm"].default))
    if _radius(cls):
        return "l2" if "L2" in cls.__name__ else "linf"
    return _NORM_OF.get(cls.__name__)


def _make(cls: Any, arguments: Arguments, case: Case) -> Made:
    known, given = arguments_of(cls), dict(arguments)
    if radius := _radius(cls):
        given[radius] = case.epsilon
    for name, value in (("n_classes", case.classes), ("seed", case.seed % 2**31)):
        if name in known:
            given[name] = value
    with redirect_stdout(io.StringIO()):  # it says where it finds no weight whose device to take
        attack = cls(case.network, **given)
    attack.set_device(case.device)

    def made(images: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = attack(images, labels)
        return found

    return made


class TorchattacksAttack(Adapter):
    """A class of ``torchattacks``: those with a radius take ``epsilon``, the others none."""

    title: ClassVar[str] = "torchattacks"
    revision: ClassVar[int] = 0
    library: ClassVar[Library] = Library(
        package="torchattacks",
        install="pip install --no-deps torchattacks (it pins an old 'requests', so without its dependencies)",
        ours=_OURS,
        classes=_classes,
        refusal=_refusal,
        radius=_radius,
        norm=_norm,
        make=_make,
    )

    method: Literal["torchattacks"]
