"""Label the tutorial's three sentences with a model folder, and say how to go on with SmSA.

python scripts/quickstart.py runs/quickstart
"""

import argparse
import os
from pathlib import Path

from transformers import logging, pipeline

from smsa.models.bundled import find_bundled
from smsa.sharing.card import EXAMPLES


def main(model: str) -> None:
    """Print a label and its probability for each sentence, then the next command.

    Raises:
        SystemExit: with status 1 and the reason, if the model cannot be used.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        classify = pipeline("text-classification", model=find_bundled(model), device="cpu")
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for sentence, answer in zip(EXAMPLES, classify(list(EXAMPLES)), strict=True):
        print(f"{answer['label']:9} {answer['score']:.3f}  {sentence}")
    print("A model that saw so few sentences errs often. This one learns the 11,000 of SmSA, without the Hub:")
    print("  .venv/bin/accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/mini.yaml")
    found = os.environ.get("SMSA_DATA_DIR") or (Path("data/smsa").is_dir() and "data/smsa")
    print(
        f"SmSA is in {found}." if found else "SmSA is downloaded then, or put it into data/smsa first: see README.md."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Model folder, or name on the Hub.")
    main(parser.parse_args().model)
