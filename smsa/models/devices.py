"""What this process runs on: precision, CPU threads, and a description of machine and libraries for `run.json`."""

import ctypes
import logging
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from smsa.distributed import is_launched
from smsa.errors import UserError

logger = logging.getLogger(__name__)

LIBRARIES = tuple("smsa torch transformers accelerate datasets evaluate tokenizers scikit-learn numpy".split())
PRECISIONS = ("auto", "no", "fp16", "bf16")


def is_cpu_fast_in_bf16() -> bool:
    """Whether bf16 is faster than fp32 on this CPU.

    Measured as matrix products on two cores: with AMX bf16 has 3 times the rate of fp32 (0.76 against 0.24 TFLOP/s on a
    Xeon), with AMD's avx512_bf16 4 times (0.8 on an EPYC of 2024). With Intel's avx512_bf16 and no AMX it has half the
    rate (0.17 against 0.32). Without any of these it is emulated: a model of IndoBERT's shape labels 0.9 texts a second
    in bf16 and 10.4 in fp32.
    """
    capabilities = torch.cpu.get_capabilities()
    is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
    return bool(capabilities.get("amx_tile") or (capabilities.get("avx512_bf16") and is_amd))


def precision_for_training(device_type: str) -> str:
    """Return bf16, or else fp16, on a GPU that has it; bf16 on a CPU that is fast in it; `no` (fp32) elsewhere."""
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "no"  # (7, 0): first with tensor cores
    return "bf16" if device_type == "cpu" and is_cpu_fast_in_bf16() else "no"


def precision_for_inference(device_type: str) -> str:
    """Return the fastest precision that keeps the labels: as in training, but fp16 on a GPU.

    fp16 has three more bits of mantissa than bf16, which matter to probabilities, and its range is enough here.
    """
    if device_type == "cuda":
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "no"
    return "bf16" if device_type == "cpu" and is_cpu_fast_in_bf16() else "no"


def resolve_precision(requested: str, device_type: str, best: Callable[[str], str] = precision_for_training) -> str:
    """Return the precision that is in effect, and log it: `no` (fp32), `fp16` or `bf16`.

    Args:
        requested: one of `PRECISIONS`. `auto` is what the launcher was asked for, else `best(device_type)`.
        device_type: `cuda`, `cpu` or another torch device type.
        best: `precision_for_training` or `precision_for_inference`.

    Returns:
        `no` where fp16 was asked of a CPU: Accelerate would train in fp32 there without a word.

    Raises:
        UserError: for an unknown precision, from the option or the launcher (`fp8`).
    """
    source, asked = "--precision", requested
    if requested == "auto":
        source, asked = "the launcher", _launcher_precision()
        if asked is None:
            source, asked = "the device", best(device_type)
    if asked not in PRECISIONS:
        raise UserError(f"precision {asked!r} (from {source}) is not one of {', '.join(PRECISIONS)}.")
    in_effect = "no" if asked == "fp16" and device_type == "cpu" else asked
    reason = " (fp16 is for GPUs)" if in_effect != asked else ""
    logger.info("Precision: requested %s, chosen by %s: %s, in effect on %s: %s%s", requested, source, asked,
                device_type, "fp32" if in_effect == "no" else in_effect, reason)  # fmt: skip
    if in_effect == "bf16" and device_type == "cpu" and not is_cpu_fast_in_bf16():
        logger.warning("This CPU is slower in bf16 than in fp32: --precision no is faster.")
    return in_effect


def _launcher_precision() -> str | None:
    """Return what `accelerate launch` was asked for; None if nothing.

    The launcher exports ACCELERATE_MIXED_PRECISION=no both where it was asked for `no` and where it was asked for
    nothing (accelerate 1.15, commands/launch.py), and `accelerate config` writes `no` into its file for who skips the
    question. So `no` is a wish only on the launcher's own command line, and the launcher is the parent process.
    """
    exported = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if exported != "no":
        return exported
    try:
        words = " ".join(psutil.Process(os.getppid()).cmdline()).replace("=", " ").replace("-", "_")
    except psutil.Error:
        return None
    return "no" if "__mixed_precision no" in words else None


def share_of_cores() -> int:
    """Return how many CPU cores each process of a launch gets on this machine."""
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
    """Set up a process of ours for training: it keeps the memory that it frees, and attention is not compiled.

    For scripts, since both hold for the whole process. glibc returns each large block to the system and has it cleared
    again for the next step: 4 to 10 % of a step of IndoBERT's shape in bf16 on two cores of an AMD EPYC. On a GPU,
    cuDNN compiles attention for each shape of batch, about 0.25 s each on an H200, and texts come in many shapes.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h; mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)  # none
    torch.backends.cuda.enable_cudnn_sdp(False)


def describe_hardware(device_type: str = "cuda") -> dict[str, object]:
    """Return the machine as plain values: system, CPU, cores and threads and, for `cuda`, each visible GPU."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "gpus": _gpu_names(device_type),
    }


def describe_environment(device_type: str = "cuda") -> dict[str, object]:
    """Return what can change the last bits of a result: versions of the libraries, the processor and its threads."""
    processor = ", ".join(_gpu_names(device_type)) or _cpu_name()
    return describe_versions() | {"processor": processor, "n_threads": torch.get_num_threads()}


def describe_versions() -> dict[str, str | None]:
    """Return the version of Python and of each of `LIBRARIES`, by name."""
    return {"python": platform.python_version()} | {name: find_version(name) for name in LIBRARIES}


def find_version(library: str) -> str | None:
    """Return the version of an installed library; None for one that runs from a folder, as smsa itself may."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _gpu_names(device_type: str) -> list[str]:
    n_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    return [torch.cuda.get_device_name(i) for i in range(n_gpus)]


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
