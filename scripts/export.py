"""Export a fine-tuned model for ONNX Runtime, transformers.js or OpenVINO, and hold it against the original.

python scripts/export.py runs/indonlu --to onnx
python scripts/export.py runs/indonlu --to openvino --int8
"""

import argparse
import os

from smsa.cli import set_up_logging
from smsa.sharing.export import (
    LARGEST_LOSS,
    TARGETS,
    describe,
    export_model,
    find_losses,
)

LOSES = 3  # exit status


def main(model: str, to: str, int8: bool = False, output: str | None = None, **options: object) -> dict:
    """Export as `smsa.sharing.export.export_model` does, and print the comparison; get what export.json holds.

    Raises:
        SystemExit: with status 1 and the reason, and no folder; with 3 where the export is there and loses more than a
            point of macro F1.
    """
    output = output or f"{os.path.normpath(model)}-{to}{'-int8' * int8}"
    try:
        record = export_model(model, output, to, int8, **options)
    except (ValueError, OSError, RuntimeError) as error:  # the last: what an exporter cannot do
        raise SystemExit(f"error: {error}") from error
    print(f"{describe(record)}\nThe export is in {output}")
    for name, loss in find_losses(record).items():
        print(f"warning: {name} loses {100 * loss:.1f} points of macro F1; more than {100 * LARGEST_LOSS:.0f} is much.")
    if find_losses(record):
        raise SystemExit(LOSES)
    return record


if __name__ == "__main__":
    set_up_logging()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("model", help="Fine-tuned model: a folder, or a name on the Hub.")
    parser.add_argument(
        "--to", choices=TARGETS, required=True, help="What it is for; onnx serves transformers.js, too."
    )
    parser.add_argument("--int8", action="store_true", help="Weights in 8 bits: smaller and faster.")
    parser.add_argument("--output", help="Folder for the export, new or empty; MODEL-onnx or the like if not given.")
    parser.add_argument(
        "--data", help="Labelled file to compare by; if not given, SmSA's valid as finetune.py finds it."
    )
    parser.add_argument("--text_column", default="text", help="Column of texts in it, unless it is a .tsv. (text)")
    parser.add_argument("--label_column", default="label", help="Column of labels in it, unless it is a .tsv. (label)")
    parser.add_argument("--label_map", help="What it calls the model's labels: LABEL_0=positive,...")
    parser.add_argument("--revision", help="Branch, tag or commit of the model on the Hub.")
    main(**vars(parser.parse_args()))
