"""Put a pre-trained encoder, or the best of some fine-tuned seeds, into the package, in fp16: see `make mini`.

python scripts/ship.py mini runs/pretrain-mini
python scripts/ship.py mini-sentiment runs/mini-seeds
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from smsa.data.datasets import find_smsa, read_rows
from smsa.errors import UserError
from smsa.files import hash_file, remove_folder, staged, write_json
from smsa.inference.classifier import SentimentClassifier
from smsa.models.bundled import BUNDLED, CLASSIFIER, ENCODER, FOLDER
from smsa.models.loading import load_classifier
from smsa.sharing.card import CARD, render_card
from smsa.training.metrics import score_label_ids
from smsa.training.results import answer_examples, measure_certainty

ROOT = Path(__file__).parent.parent
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "metrics.json", "history.csv")
STATED = "---\nlicense: cc-by-sa-4.0\n---\n"  # the strictest of the licences of the texts: docs/mini-sources.md


def ship_encoder(run: Path, folder: Path) -> str:
    """Write what scripts/pretrain.py has left into a folder to ship; get the line that says so."""
    write_half(run, folder)
    origins = (ROOT / "docs" / "mini-sources.md").read_text(encoding="utf-8")
    (folder / CARD).write_text(render_card(folder, ENCODER, STATED, origins), encoding="utf-8")
    return f"{run} is now {ENCODER}"


def ship_classifier(seeds: Path, folder: Path) -> str:
    """Write the seed that is best on valid, with scores measured on what is shipped; get the line that says so."""
    summary = json.loads((seeds / "seeds.json").read_bytes())
    best = max(summary["runs"].values(), key=lambda run: run["valid"]["f1"])
    write_half(seeds / best["folder"], folder)
    measure_again(folder)
    (folder / CARD).write_text(render_card(folder, CLASSIFIER, STATED), encoding="utf-8")
    f1 = json.loads((folder / "metrics.json").read_bytes())["valid"]["f1"]
    return f"{best['folder']} is now {CLASSIFIER}: macro F1 on valid {best['valid']['f1']:.4f}, in fp16 {f1:.4f}"


def write_half(run: Path, folder: Path) -> None:
    """Copy what a finished run has left, its weights rounded to fp16.

    config.json goes on saying float32, so that every client computes in fp32.
    """
    weights = {key: value.half() for key, value in load_file(run / "model.safetensors").items()}
    record = json.loads((run / "run.json").read_bytes())
    for file in FILES:
        shutil.copy(run / file, folder / file)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    del record["arguments"]  # of this machine; `settings` has all that matters
    for data in record["data"].values():
        data |= {"file": Path(data["file"]).name} if "file" in data else {}
    write_json(record | {"outputs": sorted([*FILES, CARD, "model.safetensors"])}, folder / "run.json")


def measure_again(folder: Path) -> None:
    """Let metrics.json say what the rounded weights score on valid."""
    metrics, run = (json.loads((folder / name).read_bytes()) for name in ("metrics.json", "run.json"))
    path = find_smsa()["valid"]
    if hash_file(path)[0] != run["data"]["valid"]["sha256"]:
        raise UserError(f"{path} is not the file that the run was judged by.")
    labels = tuple(run["labels"])
    texts, label_ids, _, _ = read_rows(path, labels)
    classifier = SentimentClassifier.from_pretrained(str(folder), device="cpu", precision="no", backend="torch")
    answers = classifier(texts)
    logits = np.log([[answer[f"p_{label}"] for label in labels] for answer in answers])  # (n_texts, n_labels)
    loss = -logits[np.arange(len(texts)), label_ids].mean()
    scores = {"loss": float(loss)} | score_label_ids(logits.argmax(-1), np.array(label_ids), labels)
    metrics["valid"] = {name: scores[name] for name in metrics["valid"] if name in scores}
    metrics["valid"] |= measure_certainty(np.array(label_ids), logits, labels)
    model, tokenizer = load_classifier(str(folder))
    metrics["examples"] = answer_examples(model, tokenizer)
    write_json(metrics, folder / "metrics.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=BUNDLED)
    parser.add_argument("run", type=Path, help="what scripts/pretrain.py, or scripts/finetune.py --seeds, has left")
    args = parser.parse_args()
    target = FOLDER / args.name
    try:
        with staged(FOLDER) as staging:  # what was shipped stays until what takes its place is whole
            line = (ship_encoder if args.name == ENCODER else ship_classifier)(args.run, staging)
            if target.exists():
                remove_folder(target)
            staging.rename(target)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"error: {error}") from error
    print(line)
