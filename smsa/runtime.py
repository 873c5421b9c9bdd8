"""What this process runs on: rank, work shared between ranks, locks, precision, CPU threads, hardware."""

import ctypes
import logging
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import joblib
import psutil
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, SoftFileLock, Timeout

from smsa.errors import UserError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "no", "fp16", "bf16")
LIBRARIES = tuple("smsa torch transformers accelerate datasets evaluate tokenizers scikit-learn numpy".split())
_OF_LAUNCHERS = {"ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"}  # accelerate launch and torchrun set at least one
_T = TypeVar("_T")

# RANK and WORLD_SIZE are read at each call: a notebook launcher sets them in forks, after the import of smsa.


def rank() -> int:
    """Return the number of this process within the launch; 0 is the main process, which writes and logs."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes of the launch."""
    return int(os.environ.get("WORLD_SIZE", 1))


def end_with_launcher(name: str) -> None:
    """Let the kernel signal this process when its launcher ends, as the launcher passes no signal on; Linux only."""
    if _OF_LAUNCHERS & os.environ.keys() and sys.platform == "linux":
        signum, pr_set_pdeathsig = getattr(signal, name), 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signum)
        # if the launcher has already ended, the parent is process 1; but process 1 may be the launcher itself
        launcher = rb"launch|torchrun|torch\.distributed"
        if os.getppid() == 1 and not re.search(launcher, Path("/proc/1/cmdline").read_bytes()):
            os.kill(os.getpid(), signum)


def resolve_precision(requested: str, device_type: str, training: bool = True) -> str:
    """Return the precision that is in effect, and log it: `no` (fp32), `fp16` or `bf16`.

    `auto` follows the launcher if it was asked for a precision, else it is the fastest that does not change labels: on
    a GPU, inference takes fp16, whose three more bits of mantissa matter to probabilities; training takes bf16 for its
    range. fp16 on a CPU becomes `no`: Accelerate would silently train in fp32 there.

    Raises:
        UserError: for a precision that is not one of `PRECISIONS`, from the option or the launcher (`fp8`).
    """
    # A CPU is fast in bf16 with AMX (3 times the matrix products of fp32 on a Xeon) or AMD's avx512_bf16 (4 times on an
    # EPYC of 2024). Intel's avx512_bf16 alone has half the rate; other CPUs emulate bf16 at a tenth of it.
    has = torch.cpu.get_capabilities()
    is_fast = has.get("amx_tile") or (has.get("avx512_bf16") and str(has.get("cpu_name", "")).startswith("AMD"))
    source, asked = "--precision", requested
    if requested == "auto":
        source, asked = "the launcher", os.environ.get("ACCELERATE_MIXED_PRECISION")
        # accelerate 1.15 exports `no` even if no precision was asked for, and `accelerate config` writes `no` if the
        # question is skipped. So `no` counts only on the command line of the launcher, which is the parent process.
        if asked == "no":
            words = ""
            with suppress(psutil.Error):
                words = " ".join(psutil.Process(os.getppid()).cmdline()).replace("=", " ").replace("-", "_")
            asked = "no" if "__mixed_precision no" in words else None
        if asked is None and device_type == "cuda":
            has_bf16 = training and torch.cuda.is_bf16_supported(including_emulation=False)
            has_fp16 = torch.cuda.get_device_capability() >= (7, 0)  # the first with tensor cores
            source, asked = "the device", "bf16" if has_bf16 else "fp16" if has_fp16 else "no"
        elif asked is None:
            source, asked = "the device", "bf16" if device_type == "cpu" and is_fast else "no"
    if asked not in PRECISIONS:
        raise UserError(f"precision {asked!r} (from {source}) is not one of {', '.join(PRECISIONS)}.")
    in_effect = "no" if asked == "fp16" and device_type == "cpu" else asked
    shown = "fp32" if in_effect == "no" else in_effect
    reason = " (fp16 is for GPUs)" if in_effect != asked else ""
    logger.info("Precision: %s asks for %s; in effect on %s: %s%s", source, asked, device_type, shown, reason)
    if in_effect == "bf16" and device_type == "cpu" and not is_fast:
        logger.warning("This CPU is slower in bf16 than in fp32: --precision no is faster.")
    return in_effect


def share_of_cores() -> int:
    """Return how many CPU cores each process of a launch gets on this machine, of those that its container may use."""
    return max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def set_cpu_threads(n_threads: int | None = None) -> None:
    """Set torch's CPU threads for this process; None leaves them to torch, or in a launch takes an equal share.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1, which would leave all cores but one idle; any other
    value is the user's.
    """
    if n_threads is None and _OF_LAUNCHERS & os.environ.keys() and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        n_threads = share_of_cores()
    if n_threads is not None:
        torch.set_num_threads(n_threads)


def on_main(task: Callable[[], _T]) -> _T:
    """Run `task` on the main process once every rank calls this, while the others wait; return its result on all.

    If `task` fails, the main process raises, and the launcher ends the others. If no Trainer has set up communication
    between ranks, this does, with gloo, as no tensors are exchanged. A rank may then wait for another for 30 days.
    """
    options = {"cpu": True, "timeout": timedelta(days=30)} if world_size() > 1 else {}
    PartialState(**options).wait_for_everyone()
    return broadcast_object_list([None if rank() else task()])[0]


def take_lock(lock: FileLock, timeout: float, in_use: str) -> None:
    """Take a lock within `timeout` seconds.

    Raises:
        UserError: with the message `in_use`, if another process has the lock.
        OSError: if the disk does not support locks.
    """
    try:
        lock.acquire(timeout=timeout)
    except (Timeout, FileNotFoundError) as error:  # a job that has just ended removed the lock's folder
        # on a disk without flock, filelock makes a file, which a killed run leaves: other machines cannot tell
        way_out = f" If it was killed, remove {lock.lock_file}." if isinstance(lock, SoftFileLock) else ""
        raise UserError(in_use + way_out) from error
    except OSError as error:
        way_out = "a run locks this file: choose a folder of your own, on a disk that has locks"
        raise OSError(error.errno, f"{error.strerror}; {way_out}", lock.lock_file) from error


def any_rank(flag: bool) -> bool:
    """Return whether `flag` is set on any rank; all ranks call it together, and no GPU waits for it."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor([flag], dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=_cpu_group())
    return bool(flags.item())


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """Return a group that makes no GPU wait; None stands for the default one."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def set_up_process() -> None:
    """Set up this process for training: keep memory that is freed, and do not compile attention.

    Only scripts call it, since it affects the whole process. By default glibc returns each large block to the system,
    which clears it again for the next step: 4 to 10 % of a step of IndoBERT's shape in bf16 on two cores of an AMD
    EPYC. On a GPU, cuDNN compiles attention for each batch shape, about 0.25 s each on an H200, and shapes are many.
    """
    if world_size() == 1 < int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)):
        logger.warning("srun started several tasks, and each trains alone: docs/scaling.md says how to join them.")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD of malloc.h: never trim
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mmap
    torch.backends.cuda.enable_cudnn_sdp(False)


def describe_versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str | None]:
    """Return the version of Python and of each library; None for one that runs from a folder, as smsa itself may."""
    versions: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(libraries)
    for library in libraries:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def describe_hardware(device_type: str) -> dict[str, object]:
    """Return the machine as plain values: system, CPU, cores and threads and, for `cuda`, each visible GPU."""
    n_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    return {
        "system": platform.platform(),
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(n_gpus)],
    }


def describe_environment(device_type: str) -> dict[str, object]:
    """Return what can change the last bits of a result: versions of the libraries, the processor and its threads."""
    machine = describe_hardware(device_type)
    processor = ", ".join(machine["gpus"]) or machine["cpu"]
    return describe_versions() | {"processor": processor, "n_threads": machine["n_threads"]}
