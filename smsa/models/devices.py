"""What this process runs on: precision, CPU threads, memory, versions, and a description for `run.json`."""

import ctypes
import logging
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from smsa.distributed import is_launched
from smsa.errors import UserError

logger = logging.getLogger(__name__)

LIBRARIES = (
    "smsa",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "tokenizers",
    "scikit-learn",
    "numpy",
)
PRECISIONS = ("auto", "no", "fp16", "bf16")


def precision_for_training(device_type: str) -> str:
    """Get bf16, or failing that fp16, on a GPU that has it; bf16 on a CPU with AMX or avx512_bf16; `no` elsewhere."""
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "no"  # (7, 0): first with tensor cores
    if device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if capabilities.get("amx_tile") or capabilities.get("avx512_bf16") else "no"
    return "no"


def precision_for_scoring(device_type: str) -> str:
    """Get the fastest one that keeps the labels: fp16 on a GPU with tensor cores, bf16 on a CPU that is fast in it.

    fp16 has three more bits of mantissa than bf16, which matter to probabilities; its range is enough without
    gradients. A CPU is fast in bf16 with AMX, or avx512_bf16 by AMD: four times the rate of fp32 in products (0.8
    TFLOP/s on two cores of an EPYC of 2024). By Intel without AMX, it has half the rate (0.17 against 0.32 on two Xeon
    cores, `benchmarks/scoring.py`).
    """
    if device_type == "cuda":
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "no"
    capabilities = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    by_amd = capabilities.get("avx512_bf16") and capabilities.get("cpu_name", "").startswith("AMD")
    return "bf16" if capabilities.get("amx_tile") or by_amd else "no"


def resolve_precision(requested: str, device_type: str, best: Callable[[str], str] = precision_for_training) -> str:
    """Get the precision that is really in effect: `no` (fp32), `fp16` or `bf16`.

    Args:
        requested: one of `PRECISIONS`. `auto` follows the launcher where its `mixed_precision` asks for one, else is
            `best(device_type)`.
        device_type: `cuda`, `cpu` or another torch device type.
        best: `precision_for_training` or `precision_for_scoring`.

    Returns:
        fp16 on a CPU comes back as `no`: Accelerate would train in fp32 there without a word.

    Raises:
        ValueError: for an unknown precision, asked here or by the launcher (`fp8`).
    """
    source, asked = "--precision", requested
    if requested == "auto":
        source, asked = "the launcher", os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked == "no":
            source, asked = "the device", best(device_type)
    if asked not in PRECISIONS:
        raise UserError(f"precision {asked!r} (from {source}) is not one of {', '.join(PRECISIONS)}.")
    in_effect = "no" if asked == "fp16" and device_type == "cpu" else asked
    reason = " (fp16 is for GPUs)" if in_effect != asked else ""
    logger.info("Precision: asked %s, chosen by %s: %s, in effect on %s: %s%s", requested, source, asked, device_type,
                "fp32" if in_effect == "no" else in_effect, reason)  # fmt: skip
    return in_effect


def share_of_cores() -> int:
    """Get the CPU cores that fall to this process of a launch."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def set_cpu_threads(n_threads: int | None = None) -> None:
    """Set torch's CPU threads for this process, by default an equal share of the cores.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1, which would leave all cores but one idle, so a launched
    process takes its share unless OMP_NUM_THREADS is something else. A process started by plain `python` keeps torch's
    own choice.
    """
    if n_threads is None and is_launched() and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        n_threads = share_of_cores()
    if n_threads is not None:
        torch.set_num_threads(n_threads)


def set_up_process() -> None:
    """Set up a process of ours for training: what it frees it keeps, and attention is not compiled for each length.

    glibc gives each large block back to the system and has it cleared again for the next step: on two cores of an AMD
    EPYC with avx512_bf16, 51,000 page faults a step of IndoBERT's shape in bf16, and 4 to 10 % of its time. The most
    that the process has at a time grows by 8 % there. On a GPU, cuDNN compiles attention for each shape of batch, which
    takes about 0.25 s on an H200, and texts come in many. For scripts: it changes the whole process.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h; mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)  # none
    torch.backends.cuda.enable_cudnn_sdp(False)


def avoid_compiled_attention() -> None:
    """Let torch choose among its own kernels of attention on a GPU: see `set_up_process`."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def describe_hardware(device_type: str = "cuda") -> dict[str, object]:
    """Get the machine as plain values: system, CPU, threads, and, of what runs on `cuda`, each GPU that is visible."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "gpus": _gpu_names(device_type),
    }


def describe_environment(device_type: str = "cuda") -> dict[str, object]:
    """Get what can move the last bits of a result: versions of the libraries, the processor and its threads."""
    machine = {
        "processor": ", ".join(_gpu_names(device_type)) or _cpu_name(),
        "n_threads": torch.get_num_threads(),
    }
    return describe_versions() | machine


def describe_versions() -> dict[str, str | None]:
    """Get the version of Python and of each of `LIBRARIES`, by name."""
    return {"python": platform.python_version()} | {name: find_version(name) for name in LIBRARIES}


def _gpu_names(device_type: str) -> list[str]:
    n_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    return [torch.cuda.get_device_name(i) for i in range(n_gpus)]


def find_version(library: str) -> str | None:
    """Get the version of an installed library; None for one that runs from a folder, as smsa itself may."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
