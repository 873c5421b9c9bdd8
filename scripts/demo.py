"""A page on this machine to try a model on: one text and why it got its label, or a file of many.

python scripts/demo.py
python scripts/demo.py --model runs/indonlu --port 8000
"""

import argparse

from smsa import SentimentClassifier
from smsa.cli import set_up_logging


def main(model: str | None = None, revision: str | None = None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Load the model and serve the page until Ctrl-C.

    Raises:
        SystemExit: with status 1 and the reason, if the model or the port cannot be used, or Gradio is not installed.
    """
    try:
        from smsa.demo.page import serve

        classifier = SentimentClassifier.from_pretrained(model, revision)
        serve(classifier, host, port)
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: {error}; the page needs more libraries: pip install 'smsa[demo]'.") from error
    except (ValueError, OSError, OverflowError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    set_up_logging()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--model", help="Fine-tuned model: a folder, or a name on the Hub. If not given: mini-sentiment."
    )
    parser.add_argument("--revision", help="Branch, tag or commit of the model on the Hub.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to serve on; 0.0.0.0 lets other machines in. (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="From 0 to 65535; 0 takes a free one. (default: %(default)s)"
    )
    main(**vars(parser.parse_args()))
