"""Precision, threads and memory of a process, by its launcher and its machine."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from conftest import ROOT, run

from smsa import runtime


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine look like another one to `resolve_precision`."""

    def make(cpu=(), cpu_name="Intel Xeon", capability=None, bf16=False, launcher=None):
        capabilities = {**dict.fromkeys(cpu, True), "cpu_name": cpu_name}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        if launcher:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)

    return make


@pytest.mark.parametrize(
    "requested, device, looks, in_effect",
    [
        ("auto", "cpu", {"cpu": ["amx_tile"]}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx512_bf16"], "cpu_name": "AMD EPYC"}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx512_bf16"]}, "no"),
        ("auto", "cuda", {"bf16": True, "capability": (9, 0)}, "bf16"),
        ("auto", "cuda", {"capability": (7, 5)}, "fp16"),
        ("auto", "cuda", {"capability": (6, 1)}, "no"),
        ("auto", "cuda", {"bf16": True, "launcher": "fp16"}, "fp16"),
        ("auto", "cpu", {"cpu": ["avx2"], "launcher": "bf16"}, "bf16"),
        ("auto", "cpu", {"cpu": ["amx_tile"], "launcher": "no"}, "bf16"),
        ("auto", "cpu", {"launcher": "fp16"}, "no"),
        ("no", "cuda", {"bf16": True, "launcher": "fp16"}, "no"),
        ("auto", "cuda", {"bf16": True, "capability": (9, 0), "training": False}, "fp16"),
    ],
)
def test_precision_follows_the_option_then_the_launcher_then_the_device(
    machine, caplog, requested, device, looks, in_effect
):
    training = looks.pop("training", True)
    machine(**looks)
    with caplog.at_level("INFO", logger="smsa"):
        assert runtime.resolve_precision(requested, device, training) == in_effect
    assert f"requested {requested}" in caplog.text
    assert f"in effect on {device}: {'fp32' if in_effect == 'no' else in_effect}" in caplog.text
    assert ("fp16 is for GPUs" in caplog.text) == (device == "cpu" and "fp16" in (requested, looks.get("launcher")))
    assert ("slower in bf16" in caplog.text) == (looks == {"cpu": ["avx2"], "launcher": "bf16"})


@pytest.mark.slow
def test_accelerate_launch_passes_its_own_no_on_and_asks_for_nothing_by_itself(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "from smsa import runtime; runtime.best_precision = lambda *_: 'bf16'\n"
        "print('precision:', runtime.resolve_precision('auto', 'cpu'))"
    )
    for options, in_effect in (("--mixed_precision no", "no"), ("--mixed-precision=no", "no"), ("", "bf16")):
        command = ["accelerate", "launch", "--config_file", "accelerate_config.yaml", *options.split(), script]
        status, text = run(*command, PYTHONPATH=str(ROOT))
        assert status == 0 and f"precision: {in_effect}" in text, text


@pytest.mark.parametrize("command, n_signals", [("accelerate launch", 0), ("torchrun", 0), ("/sbin/init", 1)])
def test_a_process_whose_launcher_has_ended_is_signalled_and_none_of_a_launcher_that_is_process_1(
    monkeypatch, command, n_signals
):
    signals = []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(runtime, "ctypes", MagicMock())
    monkeypatch.setattr(runtime, "Path", lambda _: SimpleNamespace(read_bytes=command.encode))
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "kill", lambda *signal: signals.append(signal))
    runtime.end_with_launcher("SIGTERM")
    assert len(signals) == n_signals


def test_an_unknown_precision_of_the_launcher_is_refused(machine):
    machine(launcher="fp8")
    with pytest.raises(ValueError, match="'fp8' .from the launcher. is not one of"):
        runtime.resolve_precision("auto", "cuda")


def test_a_launched_process_takes_its_share_of_the_cores(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
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
def test_freed_memory_is_kept_where_a_script_asks_for_it():
    script = (
        "import resource, torch, smsa.runtime\n"  # a script has imported its libraries, which have grown the heap
        "from smsa.runtime import set_up_process\n"
        "for set_up in (int, set_up_process):\n"
        "    set_up()\n"
        "    for n_runs in range(2):\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        for _ in range(3): torch.ones(2**24)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "THP_MEM", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert after < 100 < before
