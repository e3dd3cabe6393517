"""A device that isn't there, as strict as a GPU: what runs on it runs on the CPU, and is counted.

Its tensors say that they are on ``rgpu:0`` and hold one on the CPU. Within ``pretended`` every operation on
them is done on what they hold, so that values are the CPU's to the last bit. Devices that mix where CUDA's
may not are an error, and ``Work`` is what a GPU would have been asked for. ``networks.device.device`` says
that all of the harness computes there.

What a GPU computes otherwise, its streams and its memory are not seen, nor what is done for ``cuda`` alone.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import harness.networks.device
from harness.networks.counted import is_launched

NAME = "rgpu"
CPU = torch.device("cpu")
# torch has one accelerator; what makes one in Python is experimental.
IS_POSSIBLE = not torch.cuda.is_available() and hasattr(
    backend_registration, "_setup_privateuseone_for_python_backend"
)


class MixedDevices(RuntimeError):
    """Tensors of different devices in one operation: an error on a GPU."""


@dataclass
class Work:
    """What was asked of the device, by name of the operation.

    ``launched``: those that compute, each at least a kernel; ``synced``: those of them, and of copies from
    and to the host, that the host waits for. ``mixed`` devices: all, also those whose error was caught.
    """

    launched: Counter[str] = field(default_factory=Counter)
    synced: Counter[str] = field(default_factory=Counter)
    mixed: list[str] = field(default_factory=list)

    @property
    def launches(self) -> int:
        return self.launched.total()

    @property
    def syncs(self) -> int:
        return self.synced.total()

    def add(self, name: str, launches: int, syncs: int) -> None:
        if launches:
            self.launched[name] += launches
        if syncs:
            self.synced[name] += syncs

    def copy(self) -> "Work":
        return Work(self.launched.copy(), self.synced.copy(), list(self.mixed))

    def since(self, before: "Work") -> "Work":
        """What was asked after a copy was made."""
        return Work(self.launched - before.launched, self.synced - before.synced)


@contextmanager
def pretended() -> Iterator[Work]:
    """All of the harness computes on ``device()`` meanwhile. MixedDevices at the end if one was caught."""
    work = Work()
    # torch.tensor(..., device=) makes a copy on the way that a mode does not see, unless it is asked not to.
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        # Threads for backward passes are made for the devices that are there at a process's first.
        with torch.autograd.set_multithreading_enabled(False), routed_to(device()), _Mode(work):
            yield work
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
    if work.mixed:
        raise MixedDevices(f"{len(work.mixed)} times, first: {work.mixed[0]}")


@contextmanager
def routed_to(on: torch.device) -> Iterator[None]:
    """``networks.device.device`` returns this device, whoever has imported it."""
    real = harness.networks.device.device

    def there() -> torch.device:
        return on

    _replace(real, there)
    try:
        yield
    finally:
        _replace(there, real)


def _replace(old: Callable[[], torch.device], new: Callable[[], torch.device]) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("harness.") and getattr(module, "device", None) is old:
            module.device = new  # type: ignore[attr-defined]


@cache
def device() -> torch.device:
    """'rgpu', made known to torch. Without an index, as the harness says 'cuda'; tensors are on 'rgpu:0'."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    _register_autocast()
    return torch.device(NAME)


class _Module:
    """torch.rgpu: what torch asks of a device's module."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    # Draws come from the CPU's generator.
    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_AUTOCAST = "AutocastPrivateUse1"
_LIBRARIES: list[torch.library.Library] = []  # what is registered lasts as long as these


def _register_autocast() -> None:
    """Products in low precision where ``torch.autocast`` says so, as on devices that torch knows."""
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, _AUTOCAST)
    for name in ("conv2d", "linear"):
        aten.impl(name, _cast(getattr(torch.ops.aten, name)), _AUTOCAST)
    _LIBRARIES.extend([everything, aten])


def _cast(operation: Any) -> Callable[..., Any]:
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def low(*args: Any) -> Any:
        to = torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(without):
            return operation(
                *(x.to(to) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
            )

    return low


class OnDevice(Tensor):
    """A tensor of the device; ``held`` has its values, on the CPU."""

    held: Tensor

    __module__ = "torch"  # by which eagerpy tells whose a tensor is
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """By a copy, as of a GPU's."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        return self.detach().cpu().numpy()

    # What tells ``Module.to`` to exchange whole tensors, not their data alone.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *rest: Any) -> "OnDevice":
        return OnDevice(parts["held"])

    @classmethod
    def __torch_dispatch__(cls, operation: Any, *rest: Any) -> Any:
        raise RuntimeError(f"{operation} of a tensor on {NAME}, which is there within pretended() alone")


class _Mode(TorchDispatchMode):
    """Every operation, of torch and in backward passes: checked, counted, done on the CPU."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        there = [tensor for tensor in tensors if type(tensor) is OnDevice]
        asked = kwargs.get("device")
        if not there and (asked is None or asked.type != NAME):
            return operation(*args, **kwargs)
        facts = _facts(operation)
        if facts.is_composite:  # in inference mode alone they come here as a whole
            with self:
                return operation.decompose(*args, **kwargs)
        if asked is not None:
            kwargs["device"] = CPU
        elif len(there) < len(tensors):
            self._check(operation, args, tensors)
        leaves = asked is not None and asked.type != NAME
        launches, syncs = facts.launches, facts.syncs
        if facts.is_copy and (leaves or len(there) < len(tensors)):
            is_async = not leaves and (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            launches, syncs = (1, 0) if is_async else (0, 1)
        elif facts.is_indexed:
            launches, syncs = _counted_index(operation, args)
        self._work.add(facts.name, launches, syncs)
        made = operation(*map(_held, args), **{name: _held(value) for name, value in kwargs.items()})
        # What is changed in place is what is returned.
        return made if leaves else _wrapped(made, {id(_held(tensor)): tensor for tensor in tensors})

    def _check(self, operation: Any, args: Any, tensors: Sequence[Tensor]) -> None:
        """MixedDevices, by CUDA's rules."""
        if operation is _ATEN.copy_.default:
            return
        on_host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if operation in _INDEXED and isinstance(args[0], OnDevice):
            on_host = [tensor for tensor in on_host if not any(tensor is index for index in args[1])]
        takes_numbers = torch.Tag.pointwise in operation.tags or operation in _TAKE_NUMBERS
        if takes_numbers and isinstance(args[0], Tensor) and operation._schema.is_mutable:
            takes_numbers = isinstance(args[0], OnDevice)
        if takes_numbers and all(tensor.dim() == 0 for tensor in on_host):
            return
        if on_host:
            shapes = ", ".join(f"{tensor.device} {tuple(tensor.shape)}" for tensor in tensors)
            self._work.mixed.append(f"{operation.name()} of {shapes}")
            raise MixedDevices(self._work.mixed[-1])


_ATEN = torch.ops.aten
_COPIES = {_ATEN.copy_.default, _ATEN._to_copy.default}
_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
    _ATEN._unsafe_index.Tensor,
    _ATEN._unsafe_index_put.default,
}
# Beside those that go value by value: where a tensor without dimensions may be on the CPU.
_TAKE_NUMBERS = _INDEXED | {_ATEN.masked_fill.Tensor, _ATEN.masked_fill_.Tensor, _ATEN.fill_.Tensor}
_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class _Facts(NamedTuple):
    """Of an operation; launches and syncs are those of most."""

    name: str
    is_composite: bool
    is_copy: bool
    is_indexed: bool
    launches: int
    syncs: int


@cache
def _facts(operation: Any) -> _Facts:
    name, implicit = operation.name(), "CompositeImplicitAutograd"
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, implicit)
    is_read = operation is _ATEN._local_scalar_dense.default
    launched = is_launched(operation)
    waits = is_read or (launched and any(tag in _WAITS for tag in operation.tags))
    groups = operation in _COPIES, operation in _INDEXED
    return _Facts(name, is_composite, *groups, int(launched), int(waits))


def _counted_index(operation: Any, args: Any) -> tuple[int, int]:
    """A mask is turned into positions, whose number the host waits for; positions on the host are copied."""
    indices = [index for index in args[1] if index is not None]
    masks = sum(index.dtype in (torch.bool, torch.uint8) for index in indices)
    copies = sum(not isinstance(index, OnDevice) for index in indices)
    puts = "put" in operation.name() and not (len(args) > 3 and args[3])
    fills = puts and args[2].numel() == 1 and masks == len(indices) == 1
    return (1, copies) if fills else (1 + masks, masks + copies)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _held(value: Any) -> Any:
    """The same on the host."""
    if type(value) is OnDevice:
        return value.held
    return type(value)(map(_held, value)) if isinstance(value, list | tuple) else value


def _wrapped(value: Any, known: dict[int, Tensor]) -> Any:
    """The same on the device; ``known`` tensors by the id of what they hold."""
    if isinstance(value, Tensor):
        return known[id(value)] if id(value) in known else OnDevice(value)
    return type(value)(_wrapped(each, known) for each in value) if isinstance(value, list | tuple) else value


def launch(work: Work, name: str, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A kernel from outside torch, e.g. FAISS's: a function of what tensors of the device hold."""
    if not all(isinstance(tensor, OnDevice) for tensor in tensors):
        raise MixedDevices(f"{name} of {', '.join(str(tensor.device) for tensor in tensors)}")
    work.add(name, 1, 0)
    return OnDevice(function(*map(_held, tensors)))
