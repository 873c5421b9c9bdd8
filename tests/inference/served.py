"""What a server loads before it forks its workers: a classifier, and what answers with it."""

import json
import os

from smsa import SentimentClassifier

TEXTS = ["enak dan murah sekali !", "kotor dan mahal", "biasa saja", ""]

classifier = SentimentClassifier.from_pretrained("mini-sentiment", backend=os.environ["BACKEND"], num_threads=2)
if os.environ["IS_USED"]:
    classifier(TEXTS)


def label(text: str) -> str:
    """Return the answer to one text, and the process that gave it."""
    return json.dumps([os.getpid(), classifier(text)])


def add_label(row: dict) -> dict:
    """Label a row of `datasets`."""
    return {"found": label(row["text"])}


def app(environ: dict, start_response) -> list[bytes]:
    """Answer a request by gunicorn."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [f"[{','.join(map(label, TEXTS))}]".encode()]
