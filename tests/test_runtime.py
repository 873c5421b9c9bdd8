"""The machine: what a process of ours does with its memory."""

import os
import platform
import subprocess
import sys

import pytest


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
