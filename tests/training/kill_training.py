"""Runs scripts/finetune.py as it is, in processes that can be killed at any touch of the output folder.

As a script of `accelerate launch`: SMSA_KILL="RANK POINT" kills that process at the first such point.
As `python tests/training/kill_training.py serve`: for each line of stdin, a JSON object with "options", "log", "kill",
"record" and "copies", the script runs in fresh forks of this process, which has imported all; their exit statuses are
printed.
"""

import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune.py")
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link", "os.listdir"}


def watch_points(output_dir: str, at: callable) -> None:
    """Call `at` with the name of each point: a touch of a file in the output folder, a file that was written."""
    import torch
    import transformers.modeling_utils
    from transformers import Trainer

    def audit(event: str, args: tuple) -> None:
        if event in EVENTS and isinstance(args[0], str | os.PathLike) and str(args[0]).startswith(output_dir):
            at(f"{event} {re.sub('[0-9]+', '#', str(args[0])[len(output_dir) :])}")

    def after(home: object, name: str, describe: callable) -> None:
        original = getattr(home, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            at(describe(args))
            return result

        setattr(home, name, wrapped)

    after(torch, "save", lambda args: f"wrote {re.sub('[0-9]+', '#', Path(args[1]).name)}")
    after(transformers.modeling_utils, "safe_save_file", lambda args: "wrote weights")
    after(Trainer, "_load_best_model", lambda args: "loaded the best model")
    sys.addaudithook(audit)


def run_script(options: list[str], kill: str | None = None, record: str | None = None) -> None:
    def at(point: str) -> None:
        if record:
            with open(record, "a", encoding="utf-8") as lines:
                lines.write(f"{point}\n")
        if point == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill or record:
        watch_points(options[options.index("--output_dir") + 1], at)
    sys.argv = [SCRIPT, *options]
    runpy.run_path(SCRIPT, run_name="__main__")


def serve() -> None:
    import transformers.models.bert.modeling_bert  # noqa: F401

    import smsa.inference.engine  # noqa: F401
    import smsa.training.trainer  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        pids = [fork(job) for _ in range(job.get("copies", 1))]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


def fork(job: dict) -> int:
    """Run the script in a fork of this process; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    status = 1
    try:
        run_script(job["options"], job.get("kill"), job.get("record"))
        status = 0
    except SystemExit as ended:  # as the interpreter does
        if isinstance(ended.code, str):
            os.write(2, ended.code.encode())
        status = 1 if isinstance(ended.code, str) else ended.code or 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        rank, _, kill = os.environ.get("SMSA_KILL", "").partition(" ")
        run_script(sys.argv[1:], kill if rank == os.environ.get("RANK", "0") else None)
