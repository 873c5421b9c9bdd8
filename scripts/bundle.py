"""Put a pre-trained encoder, or a fine-tuned classifier, into the package, in 8 bits: see `make mini`.

python scripts/bundle.py mini runs/pretrain-mini
python scripts/bundle.py mini-sentiment runs/informal --output runs/informal-8bit
python scripts/bundle.py mini-sentiment runs/biases
"""

import argparse
import json
import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from tokenizers import Regex, normalizers
from transformers import EvalPrediction

from smsa.cli import exit_on_error
from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import EXAMPLES, LABELS
from smsa.data.normaliser import set_normaliser
from smsa.errors import UserError
from smsa.evaluation.calibration import store_temperature
from smsa.evaluation.statistics import measure_calibration
from smsa.evaluation.systems import load_systems
from smsa.files import make_readable, staged, update_json, write_json
from smsa.models.loading import BUNDLED, ENCODER, FOLDER, load_classifier, save_tokenizer
from smsa.sharing.card import CARD, render_card
from smsa.training.metrics import compute_metrics, predict_examples

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "metrics.json", "history.csv")
PEOPLES = ("smsa", "prdect-id.csv")  # sources of the mixture that people labelled
NEUTRAL = np.array([label == "neutral" for label in LABELS], dtype=float)
MAX_ERROR = 0.03
NAMES = Path(__file__).parents[1] / "data" / "mixture" / "names.yaml"
STATED = "---\nlicense: cc-by-sa-4.0\n---\n"  # the strictest of the licences of the texts: docs/mini-sources.md


def main(name: str, run: Path, mixture: Path, output: Path | None) -> None:
    """Write a run into the package, or into `output`; the previous model stays until the new one is whole."""
    output = output or FOLDER / name
    sources = Path(__file__).parents[1] / "docs" / ("mini-sources.md" if name == ENCODER else "mixture-sources.md")
    with staged(output.parent) as folder:
        copy_rounded(run, folder)
        if name != ENCODER:
            mute_unknown(folder)
            read_alike(folder)
            shutil.copy(mixture / "mixture.json", folder)
            calibrate(folder, mixture / "calibration.csv")
        make_readable(folder / "model.safetensors")
        outputs = sorted({CARD, *(path.name for path in folder.iterdir())} - {"run.json"})
        update_json(folder / "run.json", outputs=outputs, origins=sources.read_text(encoding="utf-8"))
        (folder / CARD).write_text(render_card(folder, f"smsa/bundled/{name}", STATED), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        folder.rename(output)
    print(f"{run} is now {name}, in {output}")


def copy_rounded(run: Path, folder: Path) -> None:
    """Copy the files of a finished run, with large matrices rounded to 8 bits and all other weights to fp16.

    config.json still says float32, so that every client computes in fp32. transformers reads float8_e4m3fn without a
    scale. Weights are mostly below 0.5, and rounding changes them by 3 % on average.
    """
    weights = load_file(run / "model.safetensors")
    for key, value in weights.items():  # the last layer stays in fp16, since a temperature divides it
        is_large = value.ndim == 2 and value.numel() > 10_000
        weights[key] = value.to(torch.float8_e4m3fn if is_large else torch.float16)
    record = json.loads((run / "run.json").read_bytes())
    for file in FILES:
        shutil.copy(run / file, folder / file)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    del record["arguments"]  # specific to this machine; `settings` has all that matters
    for data in record["data"].values():
        data |= {"file": Path(data["file"]).name} if "file" in data else {}
    write_json(record, folder / "run.json")


def mute_unknown(folder: Path) -> None:
    """Give what the tokenizer does not know, such as a new emoji or another script, the mean of two other embeddings.

    They are those of `<mask>`, which stands for any token, and of `</s>`, which says nothing. With the embedding of
    multilingual-e5-small, a text of one unknown sign was negative (0.95), and one sign changed the label of one phrase
    in ten; with the mean, of 2 in 100. With that of `mini`, it changed the label of up to 4 in 100.
    """
    model, tokenizer = load_classifier(str(folder))
    weights = load_file(folder / "model.safetensors")
    (key,) = [key for key in weights if key.endswith(("word_embeddings.weight", "tok_embeddings.weight"))]
    mean = model.get_input_embeddings().weight[[tokenizer.mask_token_id, tokenizer.sep_token_id]].detach().mean(0)
    weights[key][tokenizer.unk_token_id] = mean.to(weights[key].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_alike(folder: Path) -> None:
    """Let the tokenizer read all places of `NAMES` as one of them, all given names as one, and most numbers as one.

    It stays if it does so already, from the model that the run began with.

    Otherwise another place changed the label of up to one phrase in six. Of those that were tried, bandung, joko and
    2008 leave most facts neutral and change few other labels. Numbers that may be ratings stay: of a single digit (but
    4.500 is read as thousands), 10, 100, and those before or behind a slash or before a per cent sign.
    """
    _, tokenizer = load_classifier(str(folder))
    steps, alike = tokenizer.backend_tokenizer.normalizer, make_normalisers()
    if steps.normalize_str("50000") != alike[0].normalize_str("50000"):
        save_tokenizer(set_normaliser(tokenizer, normalizers.Sequence([steps, *alike])), folder)


def make_normalisers() -> list[normalizers.Normalizer]:
    """Return the normalisers of `read_alike`, for lower-case text."""
    number = r"(?:\d{1,3}(?:[.,]\d{3})+(?!\d)|\d{2,})(?:[.,]\d+)*(?!\d|[.,]\d)"  # no atomic group: JavaScript has none
    steps = {rf"(?=\d)(?<![\d/])(?<!\d[.,])(?!100?(?:[.,]0)?(?![.,]?\d)){number}(?! ?[/%])": "2008"}
    groups = yaml.safe_load(NAMES.read_text("utf-8"))

    def find(group: str) -> str:  # by first letter, as a plain list of alternatives takes six times as long
        letters = groupby(sorted(groups[group].split()), itemgetter(0))
        return "|".join(f"{letter}(?:{'|'.join(name[1:] for name in names)})" for letter, names in letters)

    for kind, stand_in, words_before in (
        ("place", "bandung", "di ke dari kota"),
        ("name", "joko", "kak mbak mas bang teh om tante bu ibu pak bapak si"),
    ):
        before = "|".join(rf"\b{word} " for word in words_before.split())
        steps[rf"\b(?:{find(f'{kind}s')}|(?<={before})(?:{find(f'{kind}_words')}))\b"] = stand_in
    return [normalizers.Replace(Regex(pattern), stand_in) for pattern, stand_in in steps.items()]


def calibrate(folder: Path, held_out: Path) -> None:
    """Divide the logits by a temperature, and shift the logit of neutral.

    A language model calls more texts neutral than people do. The shift makes people's labels, in SmSA's valid and in
    the texts held out of `PEOPLES`, most likely. Texts of users differ more from the training data than these do, so
    the temperature is the highest at which the calibration error on valid is at most `MAX_ERROR`, in fp32 and in bf16.
    metrics.json then has the scores on valid and the predictions for the examples, by the rounded weights in fp32.
    """
    texts, label_ids, _, _ = read_rows(find_smsa()["valid"])
    others = pd.read_csv(held_out, keep_default_na=False).query("source in @PEOPLES")
    gold = np.array(label_ids + [LABELS.index(label) for label in others["label"]])
    valid = slice(len(texts))  # the first texts are those of valid

    def predict_logits(read: list[str], precision: str) -> np.ndarray:
        (system,) = load_systems([str(folder)], device="cpu", precision=precision)
        return np.log(np.maximum(system.predict(read, LABELS), 1e-30))

    # in fp32 and in bf16, each of shape (n_texts, n_labels)
    raw = [predict_logits(texts + others["text"].tolist(), precision) for precision in ("no", "bf16")]

    def to_logits(shift: float, temperature: float) -> np.ndarray:
        return log_softmax(np.stack(raw) / temperature + shift * NEUTRAL, axis=-1)

    def mean_loss(shift: float, temperature: float) -> float:
        return -to_logits(shift, temperature)[0, np.arange(len(gold)), gold].mean()

    for temperature in np.arange(5, 0.5, -0.01).round(2).tolist():
        shift = float(minimize_scalar(mean_loss, args=(temperature,)).x)
        logits = to_logits(shift, temperature)[:, valid]
        measured = [measure_calibration(gold[valid], probabilities) for probabilities in np.exp(logits)]
        if max(found["expected_calibration_error"] for found in measured) <= MAX_ERROR:
            break
    else:
        raise UserError(f"no temperature brings the calibration error on SmSA's valid to {MAX_ERROR:.0%}.")
    store_temperature(folder, temperature, torch.tensor(shift * NEUTRAL))
    update_json(folder / "run.json", temperature=temperature, shift_of_neutral=shift)
    scores = compute_metrics(EvalPrediction(predict_logits(texts, "no"), gold[valid]))
    examples = predict_examples(*load_classifier(str(folder)), EXAMPLES)
    update_json(folder / "metrics.json", valid=scores, examples=examples)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=BUNDLED)
    parser.add_argument("run", type=Path, help="output folder of scripts/pretrain.py or scripts/finetune.py")
    parser.add_argument("--mixture", type=Path, default="runs/mixture", help="output folder of scripts/mixture.py")
    parser.add_argument("--output", type=Path, help="another folder than that of the package")
    with exit_on_error():
        main(**vars(parser.parse_args()))
