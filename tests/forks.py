"""Scripts in forks of one process that has imported everything, alone or as the ranks of a launch."""

import gc
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["smsa.training.trainer", "smsa.sharing.card", "smsa.inference.job", "transformers.models.bert.modeling_bert"]
)
# As `accelerate launch --config_file configs/accelerate/cpu.yaml` sets them.
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}


def begin(log: Path, environment: dict[str, str], target: Callable, args: tuple) -> None:
    gc.freeze()  # or each collection would go through all imported objects
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1), os.dup2(stream, 2)
    os.environ.update(environment)
    target(*args)


class Forks:
    """Runs functions in forks, whose outputs go to the log."""

    def __init__(self, log: Path, **environment: str):
        self.log, self.environment = log, environment

    def start(self, target: Callable, *args: object, n_ranks: int = 1, **environment: str) -> list:
        """Start a fork, or one for each rank."""
        environment, forks = self.environment | environment, []
        if n_ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                environment |= LAUNCHED | {"MASTER_PORT": str(free.getsockname()[1])}
            environment |= {name: str(n_ranks) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        for rank in map(str, range(n_ranks)):
            ranks = {"RANK": rank, "LOCAL_RANK": rank} if n_ranks > 1 else {}
            forks.append(SERVER.Process(target=begin, args=(self.log, environment | ranks, target, args)))
            forks[-1].start()
        return forks

    def run(self, target: Callable, *args: object, seconds: float | None = None, **options) -> list[int]:
        """Run forks with an empty log; return the exit status of each rank, the negative signal if it was killed.

        Soon after one has failed, the others are terminated, as a launcher does. After `seconds` all are killed.
        """
        self.log.write_text("")
        forks, until = self.start(target, *args, **options), time.monotonic() + (seconds or 600)
        while alive := [fork for fork in forks if fork.exitcode is None]:
            if not connection.wait([fork.sentinel for fork in alive], max(0, until - time.monotonic())):
                break
            for fork in alive if any(fork.exitcode for fork in forks) else ():
                fork.join(5)
                fork.terminate()
        for fork in alive:
            fork.kill()
            fork.join()
        assert seconds or not alive, f"it hangs: {self.log.read_text()[-3000:]}"
        return [fork.exitcode for fork in forks]
