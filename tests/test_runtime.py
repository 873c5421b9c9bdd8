"""Precision, threads and memory of a process, by its launcher and its machine."""

import os
import platform
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from processes import launch, run

from smsa import runtime

# precision asked for, processor, what the launcher asks for, whether it is for training; what is in effect
PRECISIONS = [
    ("auto", "AMD avx512_bf16", None, True, "bf16"),
    ("auto", "Intel avx512_bf16", None, True, "no"),
    ("auto", "GPU 9", None, True, "bf16"),
    ("auto", "GPU 9", None, False, "fp16"),
    ("auto", "GPU 7", None, True, "fp16"),
    ("auto", "GPU 6", None, True, "no"),
    ("auto", "Intel avx2", "bf16", True, "bf16"),
    ("auto", "Intel amx_tile", "no", True, "bf16"),
    ("auto", "Intel avx2", "fp16", True, "no"),
    ("no", "GPU 9", "fp16", True, "no"),
]


@pytest.mark.parametrize("requested, processor, launcher, training, in_effect", PRECISIONS)
def test_precision_follows_the_option_then_the_launcher_then_the_device(
    monkeypatch, caplog, requested, processor, launcher, training, in_effect
):
    maker, feature = processor.split()
    device = "cuda" if maker == "GPU" else "cpu"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": f"{maker} CPU", feature: True})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (int(feature), 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: int(feature) >= 8)
    if launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert runtime.resolve_precision(requested, device, training) == in_effect
    assert f"in effect on {device}: {'fp32' if in_effect == 'no' else in_effect}" in caplog.text
    assert ("fp16 is for GPUs" in caplog.text) == ((device, launcher) == ("cpu", "fp16"))
    assert ("slower in bf16" in caplog.text) == ((device, launcher) == ("cpu", "bf16"))


@pytest.mark.slow
def test_accelerate_launch_passes_its_own_no_on_and_asks_for_nothing_by_itself():
    code = (
        "import torch, smsa.runtime; torch.cpu.get_capabilities = lambda: {'amx_tile': True}; "
        "print(smsa.runtime.resolve_precision('auto', 'cpu'))"
    )
    for options, in_effect in (("--mixed_precision no", "no"), ("--mixed-precision=no", "no"), ("", "bf16")):
        assert run(*launch(*options.split(), "--no_python", sys.executable, "-c", code)) == f"{in_effect}\n"


@pytest.mark.parametrize("command, n_signals", [("accelerate launch", 0), ("torchrun", 0), ("/sbin/init", 1)])
def test_the_end_of_a_launcher_is_signalled_unless_the_launcher_is_process_1(monkeypatch, command, n_signals):
    signals = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(runtime, "ctypes", MagicMock())
    monkeypatch.setattr(runtime, "Path", lambda _: SimpleNamespace(read_bytes=command.encode))
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "kill", lambda *signal: signals.append(signal))
    runtime.end_with_launcher("SIGTERM")
    assert len(signals) == n_signals


def test_an_unknown_precision_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="'fp8' .from the launcher. is not one of"):
        runtime.resolve_precision("auto", "cuda")


def test_a_launched_process_takes_its_share_of_the_cores(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(runtime.joblib, "cpu_count", lambda: 8)  # it respects a container's quota
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runtime.set_cpu_threads()  # plain python: torch's own choice
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    runtime.set_cpu_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    runtime.set_cpu_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    runtime.set_cpu_threads()  # what the user asked for
    runtime.set_cpu_threads(5)
    assert seen == [8, 2, 5]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_where_a_script_asks_for_it_and_tasks_that_srun_has_not_joined_are_told():
    code = (
        "import resource, torch; from smsa.runtime import set_up_process\n"
        "for set_up in (int, set_up_process):\n"
        "    set_up()\n"
        "    for _ in range(4):\n"  # until freed blocks are reused, which may take two rounds
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        for _ in range(3): torch.ones(2**24)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    before, after, *told = run(sys.executable, "-c", code, SLURM_STEP_NUM_TASKS="2").split(maxsplit=2)
    assert int(after) < 100 < int(before) and "each trains alone" in told[0]
