"""A network from outside the package: what a factory with the harness's mark makes."""

from typing import ClassVar, Literal
from weakref import WeakSet

from torch import nn

from harness.errors import HarnessError
from harness.extensions import Kind, Used
from harness.networks.classifier import Architecture

_made: WeakSet[nn.Module] = WeakSet()


class ForeignNetwork(Used, Architecture):
    """A factory ``f(channels, size, classes, *, settings) -> nn.Module``, see ``extensions.network``."""

    kind: ClassVar[Kind] = "network"

    architecture: Literal["foreign"] = "foreign"

    def body(self, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
        """See ``Architecture``. HarnessError where the factory returns no module, or the same one twice."""
        extension = self.extension()
        (keywords,) = extension.keywords(self.settings)
        made = extension.call(channels, size, classes, **keywords)
        if not isinstance(made, nn.Module):
            raise HarnessError(f"{extension.algorithm} should return an nn.Module, got {type(made).__name__}")
        if made in _made:
            # Several networks of a study are in memory at once, each with weights of its own.
            raise HarnessError(f"{extension.algorithm} should make a new module at every call, got one again")
        _made.add(made)
        return made
