"""Put a pre-trained encoder, or a fine-tuned classifier, into the package, in 8 bits: see `make mini`.

python scripts/bundle.py mini runs/pretrain-mini
python scripts/bundle.py mini-sentiment runs/informal --mixture runs/mixture
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import EvalPrediction

from smsa.cli import exit_on_error, set_up_logging
from smsa.data.datasets import find_smsa, load_splits
from smsa.data.labels import EXAMPLES, LABELS
from smsa.evaluation.calibration import store_temperature
from smsa.evaluation.statistics import fit_temperature
from smsa.evaluation.systems import load_systems
from smsa.files import staged, update_json, write_json
from smsa.models.loading import BUNDLED, ENCODER, FOLDER, load_classifier
from smsa.sharing.card import CARD, render_card
from smsa.training.metrics import compute_metrics, predict_examples

ROOT = Path(__file__).parent.parent
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "metrics.json", "history.csv")
STATED = "---\nlicense: cc-by-sa-4.0\n---\n"  # the strictest of the licences of the texts: docs/mini-sources.md


def main(name: str, run: Path, mixture: Path | None) -> None:
    """Write a run into the package; what stood there stays until what replaces it is whole."""
    sources = ROOT / "docs" / ("mini-sources.md" if name == ENCODER else "mixture-sources.md")
    with staged(FOLDER) as folder:
        origins = sources.read_text(encoding="utf-8")
        copy_rounded(run, folder)
        if name != ENCODER:
            shutil.copy(mixture / "mixture.json", folder)
            calibrate(folder, mixture / "calibration.csv")
        (folder / "model.safetensors").chmod(0o644)  # safetensors lets only its owner read a file
        outputs = sorted({CARD, *(path.name for path in folder.iterdir())} - {"run.json"})
        update_json(folder / "run.json", outputs=outputs)
        (folder / CARD).write_text(render_card(folder, f"smsa/bundled/{name}", STATED, origins), encoding="utf-8")
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        folder.rename(FOLDER / name)
    print(f"{run} is now {name}")


def copy_rounded(run: Path, folder: Path) -> None:
    """Copy what a finished run has left, its matrices rounded to 8 bits, all else to fp16.

    config.json still says float32, so that every client computes in fp32. Of float8_e4m3fn, transformers reads the
    values as they are, for it needs no scale: weights, mostly below 0.5, are rounded by 3 % on average.
    """
    weights = load_file(run / "model.safetensors")
    for key, value in weights.items():  # a head stays in fp16, for a temperature divides it
        is_large = value.ndim == 2 and value.numel() > 10_000
        weights[key] = value.to(torch.float8_e4m3fn if is_large else torch.float16)
    record = json.loads((run / "run.json").read_bytes())
    for file in FILES:
        shutil.copy(run / file, folder / file)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    del record["arguments"]  # of this machine; `settings` has all that matters
    for data in record["data"].values():
        data |= {"file": Path(data["file"]).name} if "file" in data else {}
    write_json(record, folder / "run.json")


def calibrate(folder: Path, held_out: Path) -> None:
    """Divide the logits by the temperature that fits SmSA's valid and what the mixture held out, together.

    metrics.json then says what the rounded weights score on valid, and predict for the examples.
    """
    splits = load_splits({"valid": find_smsa()["valid"], "held out": held_out})
    (system,) = load_systems([str(folder)], device="cpu", precision="no", backend="torch")
    gold = [np.array(split["label"][:]) for split in splits.values()]
    probabilities = [system.predict(split["text"][:], LABELS) for split in splits.values()]
    temperature = fit_temperature(np.concatenate(gold), np.concatenate(probabilities))
    store_temperature(folder, temperature)
    update_json(folder / "run.json", temperature=temperature)
    scores = compute_metrics(EvalPrediction(np.log(probabilities[0]) / temperature, gold[0]))
    stated = json.loads((folder / "metrics.json").read_bytes())["valid"]
    examples = predict_examples(*load_classifier(str(folder)), EXAMPLES)
    update_json(folder / "metrics.json", valid={name: scores[name] for name in stated}, examples=examples)


if __name__ == "__main__":
    set_up_logging()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=BUNDLED)
    parser.add_argument("run", type=Path, help="what scripts/pretrain.py or scripts/finetune.py has left")
    parser.add_argument("--mixture", type=Path, help="of a classifier, what scripts/mixture.py has left")
    args = parser.parse_args()
    if (args.name == ENCODER) == (args.mixture is not None):
        parser.error("--mixture goes with a classifier, and with each")
    with exit_on_error():
        main(**vars(args))
