"""Files with the weights that a network starts from: read without running code, and held against a network.

A file is safetensors, or anything of ``torch.save`` that holds tensors alone. Three things are forgiven: a
state dict inside a checkpoint, a prefix common to all names (``module.``, ``model.``), and missing counters
of batches, which nothing is computed from. Floats become float32. All else that differs is an error.

The harness's own stored tensors fit, too: names below ``body.`` beside ``mean`` and ``std``. The network is
normalised with these unless its settings give others, for its weights were trained with them.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import HarnessError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel

_INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep their state dict
_DEPTH = 3  # of checkpoints in checkpoints; one may hold itself
_OWN = {"mean", "std"}  # of a stored ``Classifier``, whose other names begin with 'body.'
_COUNTER = "num_batches_tracked"  # of a normalisation layer: PyTorch before 0.4.1 had none
_SHOWN = 3  # tensors that differ


def found(path: str, otherwise: str = "") -> Path:
    """The file of that path; HarnessError where there is none, with what to do ``otherwise``."""
    if not Path(path).is_file():
        raise HarnessError(f"weights: no file '{path}'{otherwise}")
    return Path(path)


def digest(path: Path) -> str:
    """sha256 of the file's bytes, which are read once for as long as they are left alone."""
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@lru_cache
def _digest(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, on the CPU.

    Raises HarnessError where it is damaged, holds something else, or wants code to be run.
    """
    loaded = _state_dict(_safetensors(path) if path.suffix == ".safetensors" else _torch_saved(path))
    if not isinstance(loaded, Mapping) or not loaded:
        raise HarnessError(f"weights: '{path}' holds no tensors by name")
    others = [f"'{name}' ({type(value).__name__})" for name, value in loaded.items() if not _is_dense(value)]
    if others:
        first = ", ".join(others[:_SHOWN])
        raise HarnessError(f"weights: '{path}' should hold dense tensors alone, by name, got {first}")
    return {str(name): value.detach() for name, value in loaded.items()}


def _state_dict(loaded: Any) -> Any:
    """What a checkpoint holds under one of the usual names; anything else as it is."""
    for _ in range(_DEPTH):
        if not isinstance(loaded, Mapping):
            break
        inside = [loaded[key] for key in _INSIDE if isinstance(loaded.get(key), Mapping)]
        loaded = inside[0] if inside else loaded
    return loaded


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # Not mapped: who writes the file again must not change a network in use.
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise HarnessError(f"weights: '{path}' is not a safetensors file: {error}") from error
    return tensors


def _torch_saved(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it may not read: it says so where it does not
            # weights_only reads tensors and plain values, and runs no code of the file's.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise HarnessError(
            f"weights: '{path}' cannot be read as tensors alone: {_reason(error)}. "
            "Save the network's state_dict() with torch.save, or as .safetensors"
        ) from error


def _reason(error: Exception) -> str:
    """Torch's reason without its advice, which is to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Check the documentation")]
    last = said[-1].removeprefix("WeightsUnpickler error: ") if said else ""
    return f"{type(error).__name__}: {last.split('. ')[0].rstrip('.')}".removesuffix(": ")


def statistics(tensors: Mapping[str, Tensor]) -> Statistics | None:
    """Mean and deviation of each channel, of a stored network of the harness's; None of any other."""
    if not _is_own(tensors):
        return None
    mean, std = (tuple(tensors[name].flatten().tolist()) for name in ("mean", "std"))
    return mean, std


def _is_own(tensors: Mapping[str, Tensor]) -> bool:
    others = tensors.keys() - _OWN
    return tensors.keys() >= _OWN and all(name.startswith("body.") for name in others)


def fitted(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], skipped: tuple[str, ...], called: str
) -> dict[str, Tensor]:
    """The tensors under the names of a body's state dict ``expected``, which may be on the meta device.

    Names that begin with one of ``skipped`` are neither expected nor taken. ``called`` is what an error calls
    tensors and body: HarnessError with the number of tensors that differ and the first few of them.
    """
    weights = {name: value for name, value in tensors.items() if name not in _OWN or not _is_own(tensors)}
    renamed = _renamed(weights, expected)
    values = {
        name: value.float() if value.is_floating_point() else value
        for name, value in renamed.items()
        if not name.startswith(skipped)
    }
    wanted = {name: value for name, value in expected.items() if not name.startswith(skipped)}
    differences = list(_differences(values, wanted))
    if differences:
        more = "; ..." if len(differences) > _SHOWN else ""
        raise HarnessError(
            f"weights: {called}: {len(differences)} of {len(wanted)} tensors differ: "
            f"{'; '.join(differences[:_SHOWN])}{more}"
        )
    return values


def _renamed(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a prefix less or more where that is how most names are the expected ones."""
    variants = [
        {added + name.removeprefix(dropped): value for name, value in tensors.items()}
        for dropped in _common_prefixes(tensors)
        for added in _common_prefixes(expected)
    ]
    return max(variants, key=lambda names: len(names.keys() & expected.keys()))


def _common_prefixes(names: Mapping[str, Any]) -> list[str]:
    """'', 'module.', 'module.model.' for names that all begin so."""
    prefixes, first = [""], next(iter(names), "")
    for part in first.split(".")[:-1]:
        longer = f"{prefixes[-1]}{part}."
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return prefixes


def _differences(values: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """A phrase for each tensor that does not fit, in the order of the body, then what it does not know."""
    for name, like in wanted.items():
        value = values.get(name)
        if value is None:
            if not name.endswith(_COUNTER):
                yield f"{name}: missing"
        elif value.shape != like.shape:
            yield f"{name}: expected {list(like.shape)}, got {list(value.shape)}"
        elif value.is_floating_point() != like.is_floating_point():
            yield f"{name}: expected {like.dtype}, got {value.dtype}"
        elif not value.isfinite().all():
            yield f"{name}: not all values are finite"
    yield from (f"{name}: not known" for name in values if name not in wanted)
