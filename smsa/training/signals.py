"""A wish to stop, and the end of a process: signals, a launcher that is gone, what torch leaves behind."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from smsa import LAUNCHER_PID
from smsa.distributed import is_launched, is_main, watch_launcher

SAME_SIGNAL_SECONDS = 0.2  # a scheduler may signal launcher and trainer, and the launcher then passes it on
ORPHAN_SECONDS = 30  # that processes have to end when their launcher is gone: as many as torchrun gives


class Stopped(SystemExit):
    """Training was asked to end, and has left a checkpoint; its `code` is 128 and the number of the signal."""


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
    if is_main():
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
