"""The ranks of one launch: which one this is, doing things on the main process, agreeing."""

import ctypes
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from smsa.errors import UserError

_T = TypeVar("_T")

# Asked anew each time: a notebook's launcher sets them in forks of a process that has imported all this.


def rank() -> int:
    """Return the number of this process within the launch; 0 is the main process, which writes and logs."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes of the launch."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this is the main process of the launch, or the only one."""
    return rank() == 0


def is_launched() -> bool:
    """Return whether `accelerate launch` or `torchrun` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ


def end_with_launcher(signum: int) -> None:
    """Let the kernel send a signal to this process when its launcher has ended, which passes none on; Linux only."""
    if is_launched() and sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signum)
        # it had ended before: its child is then that of process 1, unless that is the launcher
        if os.getppid() == 1 and b"launch" not in Path("/proc/1/cmdline").read_bytes():
            os.kill(os.getpid(), signum)


def join() -> None:
    """Let the ranks of a launch find each other, where no Trainer does: by gloo, for they share no tensors."""
    if world_size() > 1:
        PartialState(cpu=True, timeout=timedelta(days=30))  # a rank may wait that long for the share of another


def on_main(task: Callable[[], _T]) -> _T:
    """Return the result of `task`, which the main process runs when every rank has come here, while the others wait.

    Where it fails, the main process raises; the launcher then ends the others.
    """
    PartialState().wait_for_everyone()
    return broadcast_object_list([None if rank() else task()])[0]


def require_same(settings: dict[str, object]) -> None:
    """Refuse settings that are not those of the main process, as on machines that have other files.

    Raises:
        UserError: on the rank that differs, naming what does.
    """
    of_main = broadcast_object_list([settings])[0]
    if differ := [
        f"{name} is {of_main.get(name)} on the main process and {settings.get(name)} on rank {rank()}"
        for name in sorted(of_main.keys() | settings.keys())
        if of_main.get(name) != settings.get(name)
    ]:
        raise UserError(f"The ranks do not do the same: {'; '.join(differ[:5])}.")


def any_rank(flag: bool) -> bool:
    """Return whether `flag` is set on any rank; all must ask together, and no GPU waits for it."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor([flag], dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=_cpu_group())
    return bool(flags.item())


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """Return a group that makes no GPU wait; None stands for the default one."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
