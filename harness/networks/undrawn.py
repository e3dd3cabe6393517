"""Networks that are made to be filled with stored weights: drawing them first would be for nothing."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_FILLS = frozenset({torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default})


class Undrawn(TorchDispatchMode):
    """Within it tensors that torch would fill with draws keep what their memory held.

    All else is as ever: what is computed rather than drawn, as positions and tables of indices are, and
    constants, as biases and statistics of batches.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _FILLS else func(*args, **(kwargs or {}))
