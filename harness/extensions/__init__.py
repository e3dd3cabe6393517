"""Doors: a network, an attack or a defense whose code is not the harness's.

Its author marks a function, which stays what it is::

    from harness import extensions

    @extensions.attack(norm="linf", cost=lambda settings: settings["steps"])
    def attack(network, images, labels, ids, seed, *, epsilon: float, steps: int = 10): ...

A study names it in ``use``, as ``package.module:attack`` or, of an installed package that declares it, as
``package/name``, and its keyword-only parameters in ``settings``. ``marks`` has what a mark says,
``signature`` makes a strict model of the parameters, ``resolving`` goes from the name to the function, and
``code`` knows a package's files without importing them.
"""

from harness.extensions.code import Moved, code_folder, digest, must_be, must_be_as_imported, shipped
from harness.extensions.marks import Kind, Mark, attack, defense, network
from harness.extensions.resolving import Extension, resolve
from harness.extensions.used import FOREIGN, Used

__all__ = [
    "FOREIGN",
    "Extension",
    "Kind",
    "Mark",
    "Moved",
    "Used",
    "attack",
    "code_folder",
    "defense",
    "digest",
    "must_be",
    "must_be_as_imported",
    "network",
    "resolve",
    "shipped",
]
