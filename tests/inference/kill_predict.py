"""scripts/predict.py with small chunks, and a SIGKILL at a chosen point; started by test_predict.py.

SMSA_KILL=POINT:N kills this process at the N-th time that it comes by POINT; SMSA_SLOW lets each chunk take so many
seconds.
"""

import os
import pathlib
import runpy
import shutil
import signal
import sys
import time

from smsa.inference import engine
from smsa.inference.classifier import SentimentClassifier


def watch(owner, name: str, point: str, after: bool = False) -> None:
    """Count the calls of a function, and die at the one that is asked for, before or after it."""
    wanted, n = os.environ.get("SMSA_KILL", ":0").split(":")
    original, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(point)
        is_it = point == wanted and len(calls) == int(n)
        if is_it and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


if __name__ == "__main__":
    engine.CHUNK_ROWS["cpu"] = 8
    classify, seconds = SentimentClassifier.classify, float(os.environ.get("SMSA_SLOW", 0))
    SentimentClassifier.classify = lambda *args: time.sleep(seconds) or classify(*args)
    watch(SentimentClassifier, "encode", "encode")
    watch(SentimentClassifier, "classify", "classify")
    watch(os, "replace", "before-rename")
    watch(os, "replace", "after-rename", after=True)
    watch(os, "fsync", "merged", after=True)
    watch(pathlib.Path, "read_bytes", "merge")
    watch(shutil, "rmtree", "clean-up")
    print("begins", flush=True)
    script = pathlib.Path(__file__).parents[2] / "scripts" / "predict.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
