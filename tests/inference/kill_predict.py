"""scripts/predict.py with small windows, and a SIGKILL at a chosen point; started by test_predict.py.

SMSA_KILL=POINT:N kills this process at the N-th time that it comes by POINT.
"""

import os
import pathlib
import shutil
import signal
import sys
import time

from scripts import predict
from smsa.cli import parse
from smsa.inference import engine
from smsa.inference.arguments import EngineArguments, PredictionArguments
from smsa.inference.classifier import SentimentClassifier

engine.CHUNK_ROWS["cpu"] = 8


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


def slow_down(seconds: float) -> None:
    """Let each part take so long that a kill by the clock meets one."""
    classify = SentimentClassifier.classify
    SentimentClassifier.classify = lambda self, encoded: time.sleep(seconds) or classify(self, encoded)


if __name__ == "__main__":
    slow_down(float(os.environ.get("SMSA_SLOW", 0)))
    watch(SentimentClassifier, "encode", "encode")
    watch(SentimentClassifier, "classify", "classify")
    watch(os, "fsync", "synced", after=True)
    watch(os, "replace", "before rename")
    watch(os, "replace", "after rename", after=True)
    watch(pathlib.Path, "read_bytes", "merge")
    watch(shutil, "rmtree", "clean up")
    print("begins", flush=True)
    predict.set_up_logging()
    predict.main(*parse(PredictionArguments, EngineArguments, argv=sys.argv[1:]))
