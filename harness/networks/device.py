"""Where networks compute, and how much a step of training takes there."""

import platform
import re

import torch

from harness import nvidia
from harness.errors import HarnessError


def device() -> torch.device:
    """The device of this process, with full and repeatable float32 arithmetic on it.

    Raises HarnessError where a GPU is there, or was given to this process, and torch can't use it: a study
    must not crawl on a CPU that nobody chose.
    """
    full_precision()
    if torch.cuda.is_available():
        return torch.device("cuda")
    if source := nvidia.promised():
        raise HarnessError(_no_cuda(source))
    return torch.device("cpu")


def full_precision() -> None:
    """Full float32 on GPUs, and the same bits for the same inputs: settings of this process.

    TF32 keeps 10 bits of mantissa: enough to flip the images that DeepFool leaves on the boundary. Of cuDNN's
    kernels some add in the order in which their threads come, and a benchmark picks among them by the clock:
    what is killed and resumed, or computed again, would differ. (``use_deterministic_algorithms`` would raise
    in the backward pass of max pooling, which does repeat.)
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _no_cuda(source: str) -> str:
    """What to say where somebody promises a GPU and torch has none: its reason, and what helps."""
    try:
        torch.cuda.init()
        reason = "it sees none"
    except (RuntimeError, AssertionError) as error:  # an old driver, a build for CPUs
        reason = str(error).strip().splitlines()[0]
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    return (
        f"expected a GPU: {source}. torch {torch.__version__}, {built}, has none: {reason} "
        "(CUDA 13 needs NVIDIA's driver 580 or newer. To compute on the CPU: CUDA_VISIBLE_DEVICES=)"
    )


def cuda_versions() -> dict[str, str]:
    """The CUDA and cuDNN of this torch, for a cell's facts, on a machine with a GPU; {} on others.

    Asking makes no context on a GPU.
    """
    if nvidia.driver() is None or not torch.version.cuda:
        return {}
    return {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}


def device_name(device: torch.device) -> str:
    """'cuda NVIDIA H100' or 'cpu x86_64'."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} {name}"


# Dense peak in 10^12 floating-point operations per second, from NVIDIA's data sheets: device -> precision.
PEAK_TERAFLOPS = {
    "H100 PCIe": {"float32": 51.2, "bfloat16": 756.0},
    "H100 NVL": {"float32": 60.0, "bfloat16": 835.0},
    "H100": {"float32": 66.9, "bfloat16": 989.4},
    "H200": {"float32": 66.9, "bfloat16": 989.4},
    "A100": {"float32": 19.5, "bfloat16": 312.0},
    "L40S": {"float32": 91.6, "bfloat16": 362.0},
    "L4": {"float32": 30.3, "bfloat16": 121.0},
    "T4": {"float32": 8.1},
    "V100": {"float32": 15.7},
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Dense peak of the device at this precision in FLOP/s.

    None for CPUs, parts of a GPU and GPUs that are not listed.
    """
    name = device_name(device)
    known = [
        peaks for gpu, peaks in PEAK_TERAFLOPS.items() if re.search(rf"\b{gpu}\b", name) and "MIG" not in name
    ]
    teraflops = known[0].get(precision) if device.type == "cuda" and known else None
    return teraflops and teraflops * 1e12
