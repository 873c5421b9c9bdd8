"""Serve a page on this machine to try a model: one text and why it got its label, or a file of many texts.

python scripts/demo.py
python scripts/demo.py --model runs/indonlu --port 8000
"""

import argparse
import os
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec

from smsa.cli import exit_on_error
from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier


def main(args: argparse.Namespace) -> None:
    """Load the model and serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise UserError("The page needs more libraries: pip install -e '.[demo]'.")
    classifier = SentimentClassifier.from_pretrained(args.model, args.revision)
    os.environ["no_proxy"] = "*"  # Gradio requests its own page, which a proxy may not reach, and nothing else
    from smsa.demo.page import serve

    try:
        with redirect_stdout(sys.stderr):  # line-buffered, so a log file shows the address at once
            serve(classifier, args.host, args.port)
    except (OSError, OverflowError) as error:  # Gradio's message names options that this script lacks
        cause, way_out = str(error).split(". ")[0], "choose another --port (0 takes a free one) or --host"
        raise UserError(f"no page at {args.host}:{args.port} ({cause}): {way_out}.") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", help="Fine-tuned model, as in predict.py; default: the bundled ones.")
    parser.add_argument("--revision", help="Branch, tag or commit of the model on the Hub.")
    parser.add_argument("--host", default="127.0.0.1", help="Address; 0.0.0.0 lets others in. (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="Port; 0 takes a free one. (default: %(default)s)")
    with exit_on_error():
        main(parser.parse_args())
