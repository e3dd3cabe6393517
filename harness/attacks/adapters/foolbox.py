"""Foolbox's attacks: Rauber et al. 2020, "Foolbox Native"."""

import inspect
import math
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.attacks.adapters.adapter import Adapter, Arguments, Case, Library, Made
from harness.attacks.adapters.arguments import arguments_of
from harness.attacks.attack import Norm

_NORMS: dict[float, Norm] = {0: "l0", 1: "l1", 2: "l2", math.inf: "linf"}
_LEAVES = "leaves its ball: Foolbox scales the noise by its largest value, whatever is below 0"
_REFUSED = {
    "BinarizationRefinementAttack": "refines adversarial images of another attack, which it is not given",
    "DatasetAttack": "takes its images from others, which it is not given",
    "GenAttack": "is targeted only",
    "LinfAdditiveUniformNoiseAttack": _LEAVES,
    "LinfRepeatedAdditiveUniformNoiseAttack": _LEAVES,
}
_OURS = {
    "distance": "is made of the setting 'norm', beside 'arguments'",
    "tensorboard": "would write files",
}


def _classes() -> dict[str, type]:
    import foolbox.attacks
    from foolbox.attacks.base import Attack

    values = vars(foolbox.attacks).items()
    return {name: cls for name, cls in values if isinstance(cls, type) and issubclass(cls, Attack)}


def _refusal(cls: type) -> str | None:
    from foolbox.attacks.base import AttackWithDistance

    if inspect.isabstract(cls):
        return "is abstract"
    if not issubclass(cls, AttackWithDistance):
        return "turns and shifts images, and no norm says how far"
    return _REFUSED.get(cls.__name__)


def _radius(cls: type) -> str | None:
    from foolbox.attacks.base import FixedEpsilonAttack

    return "epsilon" if issubclass(cls, FixedEpsilonAttack) else None


def _norm(cls: type, arguments: Arguments) -> Norm | None:
    """Of the class's ``distance``; there is none where that is an argument."""
    if cls.__name__ == "HopSkipJumpAttack":  # its distance is l1, whatever its constraint
        return "linf" if arguments.get("constraint") == "linf" else "l2"
    # A property of some; those that are given one have none before they are made.
    distance = getattr(object.__new__(cls), "distance", None)
    return None if distance is None else _NORMS[distance.p]


def _make(cls: Any, arguments: Arguments, case: Case) -> Made:
    from foolbox import distances
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    distance = {}
    if "distance" in arguments_of(cls):
        distance["distance"] = getattr(distances, case.norm)
    attack = cls(**arguments, **distance)
    model = PyTorchModel(case.network, bounds=(0, 1), device=case.device)

    def made(images: Tensor, labels: Tensor) -> Tensor:
        # run(), not attack(): the latter spends further passes on telling which images were fooled, and
        # cuts what left the ball.
        radius = {"epsilon": case.epsilon} if issubclass(cls, FixedEpsilonAttack) else {}
        found: Tensor = attack.run(model, images, Misclassification(labels), **radius)
        return found

    return made


class FoolboxAttack(Adapter):
    """A class of ``foolbox.attacks``: those of a fixed radius take ``epsilon``, minimisation attacks none."""

    title: ClassVar[str] = "Foolbox"
    revision: ClassVar[int] = 0
    library: ClassVar[Library] = Library(
        package="foolbox",
        install="pip install foolbox",
        ours=_OURS,
        classes=_classes,
        refusal=_refusal,
        radius=_radius,
        norm=_norm,
        make=_make,
    )

    method: Literal["foolbox"]
