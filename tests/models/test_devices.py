"""Precision, threads and what is said of the machine."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from smsa.models import devices as hardware


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine look like another one to `resolve_precision`."""

    def make(cpu=(), capability=None, bf16=False, launcher=None):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        if launcher:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)

    return make


@pytest.mark.parametrize(
    "requested, device, looks, in_effect",
    [
        ("auto", "cpu", {"cpu": ["amx_tile"]}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx512_bf16"]}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx2"]}, "no"),
        ("auto", "cuda", {"bf16": True, "capability": (9, 0)}, "bf16"),
        ("auto", "cuda", {"capability": (7, 5)}, "fp16"),
        ("auto", "cuda", {"capability": (6, 1)}, "no"),
        ("auto", "mps", {}, "no"),
        ("auto", "cuda", {"bf16": True, "launcher": "fp16"}, "fp16"),
        ("auto", "cpu", {"cpu": ["avx2"], "launcher": "bf16"}, "bf16"),
        ("auto", "cpu", {"cpu": ["amx_tile"], "launcher": "no"}, "bf16"),
        ("auto", "cpu", {"launcher": "fp16"}, "no"),
        ("no", "cuda", {"bf16": True, "launcher": "fp16"}, "no"),
        ("fp16", "cpu", {}, "no"),
        ("fp16", "cuda", {"launcher": "bf16"}, "fp16"),
    ],
)
def test_precision_follows_the_option_then_the_launcher_then_the_device(
    machine, caplog, requested, device, looks, in_effect
):
    machine(**looks)
    with caplog.at_level("INFO", logger="smsa"):
        assert hardware.resolve_precision(requested, device) == in_effect
    assert f"asked {requested}" in caplog.text
    assert f"in effect on {device}: {'fp32' if in_effect == 'no' else in_effect}" in caplog.text


@pytest.mark.parametrize(
    "capabilities, best",
    [
        ({"amx_tile": True, "cpu_name": "Intel(R) Xeon(R)"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, "no"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, "no"),
    ],
)
def test_scoring_is_in_bf16_where_a_cpu_is_fast_in_it(monkeypatch, capabilities, best):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.precision_for_scoring("cpu") == best


def test_fp16_on_a_cpu_says_that_it_is_not(machine, caplog):
    with caplog.at_level("INFO", logger="smsa"):
        hardware.resolve_precision("fp16", "cpu")
    assert "fp16 is for GPUs" in caplog.text


def test_a_precision_of_the_launcher_that_we_do_not_know_is_refused(machine):
    machine(launcher="fp8")
    with pytest.raises(ValueError, match="'fp8' .from the launcher. is not one of"):
        hardware.resolve_precision("auto", "cuda")


def test_gpus_are_named_where_they_are_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    assert hardware.describe_hardware()["gpus"] == ["GPU 0", "GPU 1"]
    assert hardware.describe_hardware("cpu")["gpus"] == []
    assert hardware.describe_environment("cuda")["processor"] == "GPU 0, GPU 1"
    assert "GPU" not in hardware.describe_environment("cpu")["processor"]


def test_a_launched_process_takes_its_share_of_the_cores(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    hardware.set_cpu_threads()  # plain python: torch's own choice
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    hardware.set_cpu_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    hardware.set_cpu_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    hardware.set_cpu_threads()  # what the user asked for
    hardware.set_cpu_threads(5)
    assert seen == [8, 2, 5]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept():
    script = (
        "import resource, torch; from smsa.models.devices import set_up_process\n"
        "for kept in (False, True):\n"
        "    if kept: set_up_process()\n"
        "    for _ in range(20): torch.ones(2**24)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): torch.ones(2**24)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "THP_MEM", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert after < 100 < before
