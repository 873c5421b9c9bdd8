"""Run a script unchanged, in a fork of a test or from a shell, and kill its process when it touches its output.

python tests/killed.py SCRIPT OPTION ...

SMSA_KILL="RANK POINT:N" kills that rank, or `any`, at the N-th point (default: the first) that the pattern POINT
matches, for example `0 os.rename .*part-.*:3`. Points are Python's audit events and those of `watch_training`.
SMSA_RECORD names a file that lists the points. SMSA_SLOW adds so many seconds to each chunk of texts.
"""

import itertools
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link", "os.listdir"}


def watch_training(at: Callable[[str], None]) -> None:
    """Call `at` also after a file was written, and after the best model was loaded."""
    import torch
    import transformers.modeling_utils

    def after(home: object, name: str, describe: Callable[[tuple], str]) -> None:
        original = getattr(home, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            at(describe(args))
            return result

        setattr(home, name, wrapped)

    after(torch, "save", lambda args: f"wrote {Path(args[1]).name}")
    after(transformers.modeling_utils, "safe_save_file", lambda args: "wrote weights")
    after(transformers.Trainer, "_load_best_model", lambda args: "loaded the best model")


def shorten_chunks() -> None:
    """Make predictions read chunks of eight rows, and wait SMSA_SLOW seconds at each."""
    from smsa.inference import engine
    from smsa.inference.classifier import SentimentClassifier

    engine.CHUNK_ROWS["cpu"] = 8
    classify, seconds = SentimentClassifier.classify, float(os.environ.get("SMSA_SLOW", 0))
    SentimentClassifier.classify = lambda *args: time.sleep(seconds) or classify(*args)


def run_script(script: str, *options: object) -> None:
    """Run a script with these options. Its points are events on paths that begin with its output, with # for digits."""
    rank, _, kill = os.environ.get("SMSA_KILL", "").partition(" ")
    pattern, _, n = kill.partition(":")
    record, met = os.environ.get("SMSA_RECORD", os.devnull), itertools.count(1)
    options = list(map(str, options))
    output = options[1 + options.index("--output_dir" if "--output_dir" in options else "--output")]

    def at(point: str) -> None:
        point = re.sub("[0-9]+", "#", point)
        with open(record, "a", encoding="utf-8") as lines:
            lines.write(f"{point}\n")
        is_meant = rank in ("any", os.environ.get("RANK", "0")) and re.fullmatch(pattern, point)
        if is_meant and next(met) == int(n or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, args: tuple) -> None:
        if event in EVENTS and isinstance(args[0], str | os.PathLike) and str(args[0]).startswith(output):
            at(f"{event} {str(args[0])[len(output) :]}")

    watch_training(at) if "--output_dir" in options else shorten_chunks()
    sys.addaudithook(audit)
    sys.argv = [str(ROOT / script), *options]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    run_script(*sys.argv[1:])
