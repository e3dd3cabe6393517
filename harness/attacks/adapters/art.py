"""ART's attacks: Nicolae et al. 2018, "Adversarial Robustness Toolbox". It computes in numpy, on the CPU."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.attacks.adapters.adapter import Adapter, Arguments, Case, Library, Made
from harness.attacks.adapters.arguments import arguments_of
from harness.attacks.attack import Norm

_NORMS: dict[Any, Norm] = {"inf": "linf", math.inf: "linf", 1: "l1", 2: "l2"}
# Of classes without an argument 'norm'.
_NORM_OF: dict[str, Norm] = {
    "BasicIterativeMethod": "linf",
    "BoundaryAttack": "l2",
    "CarliniL0Method": "l0",
    "CarliniL2Method": "l2",
    "CarliniLInfMethod": "linf",
    "DeepFool": "l2",
    "ElasticNet": "l1",
    "NewtonFool": "l2",
    "PixelAttack": "l0",
    "SaliencyMapMethod": "l0",
    "SignOPTAttack": "l2",
    "ThresholdAttack": "linf",
    "ZooAttack": "l2",
}
_PROBABILITIES = "needs a network that returns probabilities"
_PATCH = "makes a patch"
_GUIDED = "makes images like others, which it is not given"
_UNSEEDED = "draws from a generator without a seed, so no run could be repeated"
_NO_NORM = "turns, shifts or recolours images, and no norm says how far"
_REFUSED = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "BoundaryAttack": _UNSEEDED,
    "CompositeAdversarialAttackPyTorch": _NO_NORM,
    "FeatureAdversariesNumpy": _GUIDED,
    "FeatureAdversariesPyTorch": _GUIDED,
    "GeoDA": "needs NumPy 1: it calls numpy.mat",
    "GRAPHITEBlackbox": "is targeted only, at photographs of objects",
    "GRAPHITEWhiteboxPyTorch": "is targeted only, at photographs of objects",
    "HopSkipJump": _UNSEEDED,
    "LowProFool": "is for tables, not for images",
    "OverTheAirFlickeringPyTorch": "is for videos",
    "OverloadPyTorch": "is for object detectors",
    "SNAL": "is for object detectors",
    "ShadowAttack": "takes one image at a time, whatever the study's batch size",
    "SimBA": _PROBABILITIES,
    "SpatialTransformation": _NO_NORM,
    "TargetedUniversalPerturbation": "is targeted only",
    "VirtualAdversarialMethod": _PROBABILITIES,
    "Wasserstein": "has a radius in Wasserstein distance, which is no norm",
}
_SET = "is set by the adapter"
_OURS = {
    "estimator": "is the network, which the study names elsewhere",
    "classifier": "is the network, which the study names elsewhere",
    "estimator_orig": "is the network, which the study names elsewhere",
    "eps": "is the radius: give it as 'epsilon', beside 'arguments'",
    "batch_size": "is the study's 'batch_size'",
    "targeted": f"{_SET}: all attacks are untargeted",
    "verbose": f"{_SET}: nothing is printed",
    "summary_writer": "would write files",
    "parallel_pool_size": f"{_SET}: a study spreads its work itself",
}
_FIXED = {"targeted": False, "verbose": False}  # where a class takes them


def _classes() -> dict[str, type]:
    from art.attacks import EvasionAttack, evasion

    values = vars(evasion).items()
    return {name: cls for name, cls in values if isinstance(cls, type) and issubclass(cls, EvasionAttack)}


def _refusal(cls: Any) -> str | None:
    from art.estimators.classification import PyTorchClassifier

    if "tensorflow" in f"{cls.__module__}.{cls.__name__}".lower():
        return "needs a TensorFlow model"
    if cls.__name__ in _REFUSED:
        return _REFUSED[cls.__name__]
    for kind in cls._estimator_requirements:
        if not issubclass(PyTorchClassifier, kind):
            return f"needs an estimator of {kind.__name__}, which no PyTorch classifier is"
    return None


def _radius(cls: type) -> str | None:
    return "eps" if "eps" in arguments_of(cls) else None


def _norm(cls: type, arguments: Arguments) -> Norm | None:
    known = arguments_of(cls)
    if "norm" in known:
        return _NORMS.get(arguments.get("norm", known["norm"].default))
    return _NORM_OF.get(cls.__name__)


def _make(cls: Any, arguments: Arguments, case: Case) -> Made:
    from art.estimators.classification import PyTorchClassifier

    for package in _late_imports(cls, arguments):
        import_module(package)
    known, on_gpu = arguments_of(cls), case.device.type == "cuda"
    given = dict(arguments)
    given |= {name: value for name, value in _FIXED.items() if name in known}
    if given.get("norm") == "inf":
        given["norm"] = math.inf
    if case.epsilon is not None:
        given["eps"] = case.epsilon
    with _on(case.device):  # ART moves the network to the current GPU
        estimator = PyTorchClassifier(
            case.network,
            nn.CrossEntropyLoss(),
            case.shape,
            case.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if on_gpu else "cpu",
        )
        attack = cls(estimator, **given)

    def made(images: Tensor, labels: Tensor) -> Tensor:
        if "batch_size" in known:
            attack.batch_size = len(images)
        # Alone of all that are used, this one takes the classes to reach; it draws them itself without.
        is_targeted = cls.__name__ == "SaliencyMapMethod"
        y = None if is_targeted else functional.one_hot(labels, case.classes).cpu().numpy()
        with _on(case.device):
            return torch.from_numpy(attack.generate(images.cpu().numpy(), y=y))

    return made


def _late_imports(cls: type, arguments: Arguments) -> Iterator[str]:
    """Packages that ART does not require and imports when the attack runs."""
    known = arguments_of(cls)
    if cls.__name__ == "AutoAttack":
        yield "multiprocess"
    if "es" in known and arguments.get("es", known["es"].default) == 0:
        yield "cma"


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class ArtAttack(Adapter):
    """A class of ``art.attacks.evasion``: those with an argument ``eps`` take ``epsilon``, others none."""

    title: ClassVar[str] = "ART"
    revision: ClassVar[int] = 0
    library: ClassVar[Library] = Library(
        package="art",
        install="pip install adversarial-robustness-toolbox, the harness's extra 'reference'",
        ours=_OURS,
        classes=_classes,
        refusal=_refusal,
        radius=_radius,
        norm=_norm,
        make=_make,
    )

    method: Literal["art"]
