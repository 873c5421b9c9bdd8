"""Show what the model of `make quickstart` gets right and wrong, and the next command.

python scripts/quickstart.py runs/quickstart
"""

import argparse
import json
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from smsa import SentimentClassifier
from smsa.data.labels import LABELS
from smsa.models.loading import DEFAULT

EVERYDAY = (
    "Kurirnya cepat, packing rapi, makasih kak",
    "udah 2 minggu brg blm nyampe, cs nya ga bales",
    "rasanya ga seenak dulu, porsinya jg makin dikit",
    "jadwal ujian diumumkan hari senin",
    "harganya emang mahal tapi sepadan sama kualitasnya",
)


def main(run: Path) -> None:
    """Print scores on the sample's test file, predictions, also of the bundled model, and the next commands."""
    metrics = json.loads((run / "metrics.json").read_bytes())
    test = metrics["test"]
    n_texts = sum(count for name, count in test.items() if name.startswith("n_"))
    n_right = round(test["accuracy"] * n_texts)
    print(
        f"\nOf the {n_texts} sentences in data/sample/test_preprocess.tsv, which it did not train on, this model has "
        f"{n_right} right\nand {n_texts - n_right} wrong: accuracy {test['accuracy']:.3f}, macro F1 {test['f1']:.3f}. "
        "Three more, with its label and probability:\n"
    )
    # a person calls the three sentences positive, neutral and negative
    for predicted, label in zip(metrics["examples"], LABELS, strict=True):
        verdict = "right" if predicted["label"] == label else f"WRONG, a person says {label}"
        print(f"  {predicted['label']:8}  {predicted['score']:.2f}  {verdict:29}  {predicted['text']}")
    print("\nIt learned from 274 sentences only. The bundled models, which learned from many more, say together:\n")
    for text, predicted in zip(EVERYDAY, SentimentClassifier.from_pretrained(DEFAULT)(EVERYDAY), strict=True):
        print(f"  {predicted['label']:8}  {predicted['score']:.2f}  {text}")
    print(
        "\nLabel a file with them, or train the small encoder on SmSA's 11,000 sentences, which are downloaded:\n\n"
        "  source .venv/bin/activate\n"
        "  python scripts/predict.py --input data/sample/valid_preprocess.tsv --output runs/labelled.csv\n"
        "  accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/mini.yaml\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="Output folder of scripts/finetune.py.")
    disable_progress_bar()  # else a bar of loading appears amid the predictions
    main(parser.parse_args().run)
