"""Runs scripts/finetune.py as it is, in processes that can be killed at any touch of the output folder.

SMSA_KILL="RANK POINT" kills that process at the first such point; SMSA_RECORD names a file for the points.
"""

import os
import re
import runpy
import signal
import sys
from pathlib import Path

import torch
import transformers.modeling_utils
from transformers import Trainer

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune.py")
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link", "os.listdir"}


def watch_points(output_dir: str, at: callable) -> None:
    """Call `at` with the name of each point: a touch of a file in the output folder, a file that was written."""

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


def run_script(options: list[str]) -> None:
    """Run the script with these options, in a process that is killed or writes the points down if that is asked for."""
    rank, _, kill = os.environ.get("SMSA_KILL", "").partition(" ")
    record = os.environ.get("SMSA_RECORD", os.devnull)

    def at(point: str) -> None:
        with open(record, "a", encoding="utf-8") as lines:
            lines.write(f"{point}\n")
        if point == kill and rank == os.environ.get("RANK", "0"):
            os.kill(os.getpid(), signal.SIGKILL)

    watch_points(options[options.index("--output_dir") + 1], at)
    sys.argv = [SCRIPT, *options]
    runpy.run_path(SCRIPT, run_name="__main__")


if __name__ == "__main__":
    run_script(sys.argv[1:])
