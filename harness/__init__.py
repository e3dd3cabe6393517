"""Visual imperceptible bounds: the paper's pipeline, in a wing a chapter.

Chhabra et al., "Attack Agnostic Adversarial Defense via Visual Imperceptible Bound", ICPR 2020.

What is named here is for other people's code, and stays as docs/library.md promises. Each name is imported
when it is first used: ``import harness`` imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness import extensions as extensions
    from harness.errors import HarnessError
    from harness.library.attack import Attacked, attack, effectiveness
    from harness.library.bound import Bound, bound
    from harness.library.results import Results
    from harness.library.results import open as open
    from harness.networks.objective import Inputs, InTraining, Needs, Objective, cross_entropy
    from harness.settings import GRID, Epsilon, Radius

    __version__: str

# Name -> the module that defines it, or that it is.
_EXPORTS = {
    "Attacked": "harness.library.attack",
    "Bound": "harness.library.bound",
    "Epsilon": "harness.settings",
    "GRID": "harness.settings",
    "HarnessError": "harness.errors",
    "InTraining": "harness.networks.objective",
    "Inputs": "harness.networks.objective",
    "Needs": "harness.networks.objective",
    "Objective": "harness.networks.objective",
    "Radius": "harness.settings",
    "Results": "harness.library.results",
    "attack": "harness.library.attack",
    "bound": "harness.library.bound",
    "cross_entropy": "harness.networks.objective",
    "effectiveness": "harness.library.attack",
    "extensions": "harness.extensions",
    "open": "harness.library.results",
}

# Without ``open``: a star import must leave the built-in one alone.
__all__ = [
    "GRID",
    "Attacked",
    "Bound",
    "Epsilon",
    "HarnessError",
    "InTraining",
    "Inputs",
    "Needs",
    "Objective",
    "Radius",
    "Results",
    "__version__",
    "attack",
    "bound",
    "cross_entropy",
    "effectiveness",
    "extensions",
]


def _exported(name: str) -> Any:
    """What is asked for the first time; AttributeError for a name that is none of these."""
    if name == "__version__":
        from harness.results.cells import own_version

        value: Any = own_version()
    elif name in _EXPORTS:
        module = import_module(_EXPORTS[name])
        value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # to a type checker any name would then exist
    __getattr__ = _exported


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, "__version__"})
