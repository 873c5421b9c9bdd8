"""Export a fine-tuned model for ONNX Runtime, transformers.js or OpenVINO, and compare it with the original.

python scripts/export.py runs/indonlu --to onnx
python scripts/export.py runs/indonlu --to openvino --int8
"""

import argparse
import os

from transformers import HfArgumentParser

from smsa.cli import exit_on_error
from smsa.data.datasets import ReadingArguments
from smsa.sharing.export import LARGEST_LOSS, TARGETS, describe, export_model


def main(reading: ReadingArguments, args: argparse.Namespace) -> None:
    """Export the model and print the comparison.

    Raises:
        SystemExit: with status 3 if the export was written, but loses more than a point of macro F1.
    """
    output = args.output or f"{os.path.normpath(args.model)}-{args.to}{'-int8' * args.int8}"
    record = export_model(args.model, output, args.to, args.int8, args.data, args.revision, **reading.reading())
    print(f"{describe(record)}\nThe export is in {output}")
    for name, found in record.items():
        if "f1_loss" in found and found["f1_loss"] > LARGEST_LOSS:
            print(f"warning: {name} loses {100 * found['f1_loss']:.1f} points of macro F1.")
            raise SystemExit(3)  # docs/sharing.md


if __name__ == "__main__":
    parser = HfArgumentParser(ReadingArguments, description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("model", help="Fine-tuned model: a folder, or a name on the Hub.")
    parser.add_argument("--to", choices=TARGETS, required=True, help="Runtime; onnx also serves transformers.js.")
    parser.add_argument("--int8", action="store_true", help="Weights in 8 bits: smaller and faster.")
    parser.add_argument("--output", help="Folder for the export, new or empty; MODEL-onnx or the like if not given.")
    parser.add_argument("--data", help="Labelled file to compare on; SmSA's valid if not given.")
    parser.add_argument("--revision", help="Branch, tag or commit of the model on the Hub.")
    with exit_on_error():
        main(*parser.parse_args_into_dataclasses())
