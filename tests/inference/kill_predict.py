"""scripts/predict.py with small chunks, and a SIGKILL at a chosen point; started by test_predict.py.

SMSA_KILL=PATTERN:N kills this process just before the N-th access to a file that the pattern matches, for instance
`os.rename .*part-`, by the names of Python's audit events; SMSA_SLOW lets each chunk take so many seconds.
"""

import itertools
import os
import re
import runpy
import signal
import sys
import time
from pathlib import Path

from smsa.inference import engine
from smsa.inference.classifier import SentimentClassifier

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"


def run_script(options: list[str]) -> None:
    """Run the script with these options."""
    engine.CHUNK_ROWS["cpu"] = 8
    classify, seconds = SentimentClassifier.classify, float(os.environ.get("SMSA_SLOW", 0))
    SentimentClassifier.classify = lambda *args: time.sleep(seconds) or classify(*args)
    pattern, n = os.environ.get("SMSA_KILL", "never:0").split(":")
    accesses = itertools.count(1)

    def kill(event: str, args: tuple) -> None:
        is_access = event in ("open", "os.rename", "shutil.rmtree")
        if is_access and re.match(pattern, f"{event} {args[0]}") and next(accesses) == int(n):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    sys.argv = [str(SCRIPT), *options]
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    run_script(sys.argv[1:])
