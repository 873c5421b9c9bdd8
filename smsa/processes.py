"""The processes of one launch: doing things on the first, agreeing, a wish to stop, and the end of all."""

import logging
import os
import signal
import socket
import sys
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
import transformers

from smsa import LAUNCHER_PID

SAME_SIGNAL_SECONDS = 0.2  # a scheduler may signal launcher and trainer, and the launcher then passes it on
SHARED_SECONDS = 60  # that a network disk may take to show a file of another machine: Linux' NFS, by default
ORPHAN_SECONDS = 30  # that processes have to end when their launcher is gone: as many as torchrun gives
_T = TypeVar("_T")


class FailedElsewhere(ValueError):
    """Another process has failed, and says why."""


class ProcessLost(FailedElsewhere):
    """Another process is gone without a word."""

    def __init__(self):
        super().__init__("another process of this launch is gone. The same command with --resume auto goes on.")


class Stopped(SystemExit):
    """Training was asked to end, and has left a checkpoint; its `code` is 128 and the number of the signal."""


def process_rank() -> int:
    """Get this process's number within the launch; 0 is the first, which writes and speaks."""
    return int(os.environ.get("RANK", 0))


IS_MAIN = process_rank() == 0  # the first process of the launch, or the only one


def set_up_logging() -> None:
    """Let the main process of a launch say what it does, the others what goes wrong, and libraries their errors."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("smsa").setLevel(logging.INFO if IS_MAIN else logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


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
            failure.is_of_all = True  # see failed_together
    try:
        dist.broadcast_object_list(shared, src=0, group=_cpu_group())
    except RuntimeError as error:
        raise failure or ProcessLost from error
    if shared[1]:
        raise failure or FailedElsewhere("the first process has failed")
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
    """Whether every process has failed at the same place, by what `error` or its cause is, so that all can go on."""
    if isinstance(error, ProcessLost):
        return False
    if isinstance(error, (FailedElsewhere, FloatingPointError)) or getattr(error, "is_of_all", False):
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
        raise ValueError(f"the processes do not do the same: {'; '.join(differ[:5])}.")


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
        raise FileNotFoundError(
            f"{path.parent} is not the same folder for all processes: it must be on a disk that all machines share."
        )


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
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
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


class StopRequest:
    """A wish to end: SIGTERM, SIGINT (Ctrl-C), SIGHUP, or a launcher that is gone.

    While `deferred` is set, the first one is noted in `signum`, for training to end at its next step, and a second
    Ctrl-C ends the process at once; without it, any of them does. Whatever is on the disk then is whole.
    """

    def __init__(self):
        self.signum: int | None = None
        self.deferred = False
        self._received_at = 0.0

    def listen(self) -> None:
        """Take the signals of this process, in a thread: Python's own handlers wait for the end of a backward pass."""
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # processes that load data
        signums = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            signums.append(signal.SIGHUP)
        for signum in signums:
            signal.signal(signum, lambda *_: None)  # so that it is written to the socket

        def receive() -> None:
            while True:
                for signum in reader.recv(64):
                    if signum in signums:
                        self._receive(signum)

        threading.Thread(target=receive, daemon=True).start()
        if is_launched():
            watch_launcher(self._receive_end_of_launcher)

    def _receive(self, signum: int) -> None:
        name = signal.Signals(signum).name
        if not self.deferred:
            _end_at_once(signum, f"{name}: stopped. The same command with --resume auto goes on.")
        if self.signum is None:
            self.signum, self._received_at = signum, time.monotonic()
            whom = LAUNCHER_PID if "LOCAL_WORLD_SIZE" in os.environ else os.getpid()
            once_more = f"Ctrl-C once more, or kill -INT {whom}, stops at once."
            _say(f"{name}: stopping after this step, with a checkpoint. {once_more}")
        elif signal.SIGINT in (signum, self.signum) and time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS:
            # torchrun answers a second Ctrl-C with SIGTERM to its processes; schedulers may well send that one twice
            _end_at_once(signum, "Stopped at once, without a checkpoint; --resume auto goes on from the last one.")

    def _receive_end_of_launcher(self) -> None:
        if self.signum is None:
            self._receive(signal.SIGTERM)
            if "LOCAL_WORLD_SIZE" in os.environ:  # this one may be waiting for another that is no more
                time.sleep(ORPHAN_SECONDS)
                _end_at_once(signal.SIGTERM, "The launcher is gone, and another process, too: stopped.")
        elif "LOCAL_WORLD_SIZE" in os.environ:  # torchrun ends before its processes only if it is hurried
            _end_at_once(self.signum, "The launcher is gone: stopped at once.")


STOP = StopRequest()  # one a process, as signals are


def _say(line: str) -> None:
    if process_rank() == 0:
        os.write(2, f"\n{line}\n".encode())


def _end_at_once(signum: int, line: str) -> None:
    _say(line)
    os._exit(128 + signum)


def end_process(status: int | str | None = 0) -> None:
    """End a process of a launch that has done its work or failed, past the destructors of its process group.

    torch 2.13 with gloo: threads of a group that is still there may abort the process at its exit ("terminate called
    without an active exception", one run in dozens), and destroying the group hangs while a model wrapped for
    distributed training holds it. A process on its own is left to end as usual.

    Args:
        status: as that of `SystemExit`: a number, or a message that stands for 1.
    """
    if dist.is_initialized():
        if not status:  # the first may be uploading, for longer than the processes of training wait for each other
            dist.barrier(dist.new_group(backend="gloo", timeout=timedelta(days=30)))
        if isinstance(status, str):
            print(status, file=sys.stderr)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if isinstance(status, str) else status or 0)
    if status:
        raise SystemExit(status)
