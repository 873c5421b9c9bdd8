"""The processes of one launch: doing things on the first, agreeing, and noticing that one is gone."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from smsa import LAUNCHER_PID
from smsa.errors import UserError

SHARED_SECONDS = 60  # that a network disk may take to show a file of another machine: Linux' NFS, by default
_T = TypeVar("_T")


class FailedElsewhere(UserError):
    """Another process has failed, and says why."""


class ProcessLost(FailedElsewhere):
    """Another process is gone without a word."""

    def __init__(self):
        super().__init__("another process of this launch is gone. The same command with --resume auto goes on.")


# Asked anew each time: a notebook's launcher sets them in forks of a process that has imported all this.


def process_rank() -> int:
    """Get this process's number within the launch; 0 is the first, which writes and speaks."""
    return int(os.environ.get("RANK", 0))


def count_processes() -> int:
    """Get how many processes the launch has."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the first process of the launch, or the only one."""
    return process_rank() == 0


def is_first_of_machine() -> bool:
    """Whether this is the first process of the launch on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def rank() -> int:
    """Return the number of this process within the launch; 0 is the main process, which writes and logs."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes of the launch."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join() -> None:
    """Let the ranks of a launch find each other, where no Trainer does: by gloo, for they share no tensors."""
    if world_size() > 1:
        PartialState(cpu=True, timeout=timedelta(days=30))  # a rank may wait that long for the share of another


def on_main(task: Callable[[], _T]) -> _T:
    """Return the result of `task`, which the main process runs while the other ranks wait.

    Where it fails, the main process raises; the launcher then ends the others.
    """
    return broadcast_object_list([task() if is_main() else None])[0]


def wait_for_everyone() -> None:
    """Wait until every rank has come here."""
    PartialState().wait_for_everyone()


def is_launched() -> bool:
    """Whether `accelerate launch` or `torchrun` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ


def on_first(task: Callable[[], _T]) -> _T:
    """Let the first process do `task` while the others wait; its result is everyone's.

    Raises:
        FailedElsewhere: on the others, where the first process raises what `task` raised.
    """
    if not dist.is_initialized():
        return task()
    shared, failure = [None, False], None
    if dist.get_rank() == 0:
        try:
            shared[0] = task()
        except Exception as error:  # the others wait, whatever it is
            failure, shared[1] = error, True
    try:
        dist.broadcast_object_list(shared, src=0, group=_cpu_group())
    except RuntimeError as error:
        raise failure or ProcessLost from error
    if shared[1]:
        error = failure or FailedElsewhere("the first process has failed")
        error.is_of_all = True  # see failed_together
        raise error
    return shared[0]


def wait_for_all() -> None:
    """Wait until every process has come here.

    Raises:
        ProcessLost: if one of them is gone.
    """
    if dist.is_initialized():
        with noticing_loss():
            dist.barrier(_cpu_group())


def failed_together(error: BaseException) -> bool:
    """Whether `error`, or what caused it, was raised in every process at the same place; then all can go on."""
    if isinstance(error, ProcessLost):
        return False
    if isinstance(error, FailedElsewhere | FloatingPointError) or getattr(error, "is_of_all", False):
        return True
    return error.__cause__ is not None and failed_together(error.__cause__)


def require_same(values: dict[str, object]) -> None:
    """Refuse to go on where the processes of a launch do not have equal values, as on machines set up differently.

    Raises:
        ValueError: in all of them, naming what differs.
        ProcessLost: if one of them is gone.
    """
    if not dist.is_initialized():
        return
    of_all: list[dict] = [{}] * dist.get_world_size()
    with noticing_loss():
        dist.all_gather_object(of_all, values, group=_cpu_group())
    differ = [
        f"{name} is {of_all[0].get(name)} in the first process and {other.get(name)} in process {rank}"
        for rank, other in enumerate(of_all)
        for name in sorted(of_all[0].keys() | other.keys())
        if of_all[0].get(name) != other.get(name)
    ]
    if differ:
        raise UserError(f"the processes do not do the same: {'; '.join(differ[:5])}.")


def require_shared(path: Path) -> None:
    """Refuse a disk that is not that of all processes: `path`, which the first has just written, must be there for all.

    Raises:
        FileNotFoundError: in all of them.
    """
    deadline = time.monotonic() + SHARED_SECONDS
    while not (sees := path.is_file()) and time.monotonic() < deadline:
        time.sleep(0.5)
        path.parent.is_dir() and os.listdir(path.parent)  # has a network disk look again
    if any_process(not sees)[0]:
        error = FileNotFoundError(
            f"{path.parent} is not the same folder for all processes: it must be on a disk that all machines share."
        )
        error.is_of_all = True
        raise error


@contextmanager
def noticing_loss() -> Iterator[None]:
    """Let errors of the network between the processes say so.

    Raises:
        ProcessLost: in their place.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessLost from error
        raise


def any_process(*flags: bool) -> list[bool]:
    """Get for each flag whether it is set in any process of the launch; all must ask together."""
    if not dist.is_initialized():
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32)
    with noticing_loss():
        dist.all_reduce(counts, group=_cpu_group())
    return [count > 0 for count in counts.tolist()]


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """A group that makes no GPU wait, and tells when a process is gone, as NCCL does not; None is the default one."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes of a launch find each other: by gloo also where they have GPUs, for they share no tensors."""
    if count_processes() == 1 or dist.is_initialized():
        yield
        return
    # what they leave is whole or absent, so that there is nothing to put in order
    watch_launcher(lambda: os._exit(1))
    dist.init_process_group("gloo", timeout=timedelta(days=30))  # one may wait that long for another's share
    yield
    dist.destroy_process_group()


def watch_launcher(when_gone: Callable[[], None]) -> None:
    """Call `when_gone`, in a thread, when the launcher has ended before this process.

    torchrun starts each process in a session of its own, and `accelerate launch` of one process passes no signal on: a
    signal to the launcher would leave them behind, to train or wait for ever.
    """

    def watch() -> None:
        while os.getppid() == LAUNCHER_PID:
            time.sleep(0.2)
        when_gone()

    threading.Thread(target=watch, daemon=True).start()
