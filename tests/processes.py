"""Scripts as they run: to their end, watched in the background, in this process, or in forks of a warm one."""

import contextlib
import gc
import io
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ["smsa.training.trainer", "smsa.sharing.card", "smsa.inference.job"]
SERVER.set_forkserver_preload(["processes", "transformers.models.bert.modeling_bert", *PRELOADED])
# As `accelerate launch --config_file configs/accelerate/cpu.yaml` sets them.
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}


def launch(*words: object, n_ranks: int = 1) -> list[str]:
    """Return the command that launches a script with one rank, or with several on the CPU."""
    config = "accelerate_config.yaml" if n_ranks == 1 else "configs/accelerate/cpu.yaml"
    return ["accelerate", "launch", "--config_file", config, *map(str, words)]


def run(*command: object, status: int = 0, cwd: Path = ROOT, timeout: float = 300, **environment: str) -> str:
    """Run a command, which must end with this status; return all that it printed."""
    options = {"cwd": cwd, "env": os.environ | environment, "timeout": timeout}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    printed = done.stdout + done.stderr
    assert done.returncode == status, f"status {done.returncode}: {printed}"
    return printed


def run_in(clone: Path, code: str, **environment: str) -> str:
    """Run a block in the clone with the environment activated, as README says, and the clone's smsa."""
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return run("bash", "-euc", code, cwd=clone, timeout=1500, PATH=path, PYTHONPATH=str(clone), **environment)


def run_here(script: str, *words: object, status: int = 0) -> str:
    """Run a script in this process, which has the libraries imported; else like `run`."""
    printed, ended = io.StringIO(), 0
    given = mock.patch.dict(os.environ), mock.patch("sys.argv", [script, *map(str, words)])
    # what is set up would also change later tests
    quiet = mock.patch.multiple("smsa.cli", logging=mock.DEFAULT, transformers=mock.DEFAULT)
    capture = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed)
    with given[0], given[1], quiet, capture[0], capture[1]:
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stopped:
            ended = stopped.code or 0
    ended, text = (1, ended) if isinstance(ended, str) else (ended, printed.getvalue())
    assert ended == status, f"status {ended}: {text}"
    return text


class Program(subprocess.Popen):
    """A command that runs in the background, in a session of its own."""

    def __init__(self, *command: object, cwd: Path = ROOT, stdin=None, **environment: str):
        options = {"cwd": cwd, "env": os.environ | environment, "stdin": stdin, "stdout": subprocess.PIPE}
        options |= {"stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        super().__init__(list(map(str, command)), **options)

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        """Wait until a condition holds, while the program runs."""
        until = time.monotonic() + seconds
        while not condition():
            if self.poll() is not None or time.monotonic() > until:
                self.kill_all()
                raise AssertionError(f"it did not come: {self.communicate()[0][-3000:]}")
            time.sleep(0.02)

    def end(self, seconds: float = 300, status: int | None = 0) -> str:
        """Wait until nobody writes to its output any more; else like `run`. None takes any status."""
        try:
            text, _ = self.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"it did not end: {self.communicate()[0][-3000:]}") from None
        assert status in (None, self.returncode), f"status {self.returncode}: {text}"
        return text

    def kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def begin(log: str, environment: dict[str, str], target: Callable, args: tuple) -> None:
    gc.freeze()  # or each collection would go through all imported objects
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1), os.dup2(stream, 2)
    os.environ.update(environment)
    target(*args)


class Forks:
    """Runs functions in forks; `printed` is what those of the last run printed."""

    def __init__(self, **environment: str):
        self.environment, self.log = environment, tempfile.NamedTemporaryFile()

    @property
    def printed(self) -> str:
        return Path(self.log.name).read_text()

    def start(self, target: Callable, *args: object, n_ranks: int = 1, **environment: str) -> list:
        """Start a fork, or one for each rank."""
        environment, forks = self.environment | environment, []
        if n_ranks > 1:
            environment |= LAUNCHED | {"MASTER_PORT": str(find_free_port())}
            environment |= {name: str(n_ranks) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        for rank in map(str, range(n_ranks)):
            ranks = {"RANK": rank, "LOCAL_RANK": rank} if n_ranks > 1 else {}
            forks.append(SERVER.Process(target=begin, args=(self.log.name, environment | ranks, target, args)))
            forks[-1].start()
        return forks

    def run(self, target: Callable, *args: object, seconds: float | None = None, **options) -> list[int]:
        """Return the exit status of each rank, the negative signal if it was killed.

        Soon after one has failed, the others are terminated, as a launcher does. After `seconds` all are killed.
        """
        self.log.truncate(0)
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
        assert seconds or not alive, f"it hangs: {self.printed[-3000:]}"
        return [fork.exitcode for fork in forks]
