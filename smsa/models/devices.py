"""The machine: memory and kernels of a process that trains, and what `run.json` says of hardware and libraries."""

import ctypes
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = tuple("smsa torch transformers accelerate datasets evaluate tokenizers scikit-learn numpy".split())


def set_up_process() -> None:
    """Set up a process of ours for training: it keeps the memory that it frees, and attention is not compiled.

    For scripts, since both hold for the whole process. glibc returns each large block to the system and has it cleared
    again for the next step: 4 to 10 % of a step of IndoBERT's shape in bf16 on two cores of an AMD EPYC. On a GPU,
    cuDNN compiles attention for each shape of batch, about 0.25 s each on an H200, and texts come in many shapes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD of malloc.h: never
        libc.mallopt(-4, 0)  # M_MMAP_MAX: none
    torch.backends.cuda.enable_cudnn_sdp(False)


def describe_versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str | None]:
    """Return the version of Python and of each library; None for one that runs from a folder, as smsa itself may."""
    versions: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(libraries)
    for library in libraries:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def describe_hardware(device_type: str = "cuda") -> dict[str, object]:
    """Return the machine as plain values: system, CPU, cores and threads and, for `cuda`, each visible GPU."""
    cpu_info = Path("/proc/cpuinfo")
    model_name = re.search(r"model name\s*: (.*)", cpu_info.read_text()) if cpu_info.is_file() else None
    n_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    return {
        "system": platform.platform(),
        "cpu": model_name[1] if model_name else platform.processor(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(n_gpus)],
    }


def describe_environment(device_type: str = "cuda") -> dict[str, object]:
    """Return what can change the last bits of a result: versions of the libraries, the processor and its threads."""
    machine = describe_hardware(device_type)
    processor = ", ".join(machine["gpus"]) or machine["cpu"]
    return describe_versions() | {"processor": processor, "n_threads": machine["n_threads"]}
