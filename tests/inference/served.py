"""What gunicorn loads before it forks its workers: a classifier that was used, and what answers with it."""

import json
import os

from smsa import SentimentClassifier

classifier = SentimentClassifier.from_pretrained("mini-sentiment", backend=os.environ["BACKEND"], num_threads=2)
classifier(["enak", "kotor"])


def app(environ: dict, start_response) -> list[bytes]:
    """Answer a request, whose body is a list of texts, with the number of the process and its labels."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), classifier(json.load(environ["wsgi.input"]))]).encode()]
