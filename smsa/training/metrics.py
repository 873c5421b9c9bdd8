"""Compute scores from logits and gold labels; make the tables and files of scores that a run leaves."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import PredictionOutput

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.files import write_json

# The reference's names for the macro scores, in the order in which it prints them.
REFERENCE_NAMES = {"accuracy": "ACC", "f1": "F1", "recall": "REC", "precision": "PRE"}
MACRO_SCORES = ("loss", *REFERENCE_NAMES)
# Key in Trainer's log -> column of history.csv.
HISTORY = {"learning_rate": "learning_rate"}
HISTORY |= {f"train_{score}": f"train_{score}" for score in MACRO_SCORES}
HISTORY |= {f"eval_{score}": f"valid_{score}" for score in MACRO_SCORES}


def score_confusion(
    confusion: np.ndarray, labels: tuple[str, ...] = (), only_present: bool = False
) -> dict[str, np.ndarray]:
    """Score confusion matrices (rows gold, columns predicted labels) of shape (..., n_labels, n_labels).

    Args:
        labels: label names in the order of rows and columns; if empty, no scores per label are returned.
        only_present: average macro scores only over labels that occur in gold; else over all, as the reference does.

    Returns:
        `accuracy`; macro `f1`, `recall`, `precision`; `f1_<label>`, `recall_<label>`, `precision_<label>` for each
        label, in [0, 1]; and `n_<label>`, how many texts carry it; each of shape (...). A score that would divide by
        zero is 0.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    n_gold, n_predicted = confusion.sum(-1), confusion.sum(-2)
    scores = {"accuracy": right.sum(-1) / n_gold.sum(-1)}
    n_counted = (n_gold > 0).sum(-1) if only_present else confusion.shape[-1]
    fractions = {"f1": (2 * right, n_gold + n_predicted), "recall": (right, n_gold), "precision": (right, n_predicted)}
    for name, (above, below) in fractions.items():
        by_label = np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
        scores[name] = by_label.sum(-1) / n_counted
        scores |= {f"{name}_{label}": by_label[..., i] for i, label in enumerate(labels)}
    return scores | {f"n_{label}": n_gold[..., i] for i, label in enumerate(labels)}


def score_label_ids(predictions, references, labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    """Score predicted label ids against gold ones, each of shape (n_texts,), as `score_confusion` does."""
    confusion = confusion_matrix(references, predictions, labels=range(len(labels)))
    return {name: score.item() for name, score in score_confusion(confusion, labels).items()}


def compute_metrics(prediction: EvalPrediction, labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    """Score logits against gold labels.

    Macro F1 is the headline: SmSA is uneven (58 % positive, 10 % neutral in train), and IndoNLU reports it.

    Args:
        prediction: `predictions` are logits of shape (n_texts, n_labels), columns in the order of `labels`;
            `label_ids` are integers of shape (n_texts,).

    Returns:
        `loss`, the mean cross entropy in nats, exact for any number of ranks, unlike Trainer's own; and what
        `score_label_ids` returns for the labels with the highest logits.
    """
    logits = np.asarray(prediction.predictions)
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise UserError(f"logits of shape {logits.shape} do not have one column for each of {', '.join(labels)}.")
    losses = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(logits)), prediction.label_ids]
    return {"loss": float(losses.mean()), **score_label_ids(logits.argmax(-1), prediction.label_ids, labels)}


def collect_metrics(trainer: Trainer, outputs: dict[str, PredictionOutput], labels: tuple[str, ...]) -> dict:
    """Return the kept `epoch`, the scores on `train`, taken while it trained, and those of `outputs`.

    The names lack the split's prefix. Macro scores come first, then those of each label.
    """
    state, of_labels = trainer.state, ("f1", "recall", "precision", "n")
    names = [*MACRO_SCORES, *(f"{score}_{label}" for label in labels for score in of_labels)]
    kept_step = (trainer.args.load_best_model_at_end and state.best_global_step) or state.global_step
    trained = [entry for entry in state.log_history if "train_f1" in entry]
    kept = next((entry for entry in trained if entry["step"] >= kept_step), trained[-1])
    scores = {"train": kept} | {split: output.metrics for split, output in outputs.items()}
    return {"epoch": math.ceil(kept["epoch"])} | {
        split: {name: found[f"{split}_{name}"] for name in names} for split, found in scores.items()
    }


def history_table(log_history: list[dict[str, float]], columns: dict[str, str] = HISTORY) -> pd.DataFrame:
    """Return a table of one row an epoch; `columns` maps keys of the log to column names."""
    # the last entry of a run, which has train_runtime, has a train_loss of another meaning
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" not in entry:
            row = rows.setdefault(math.ceil(entry["epoch"]), {})  # a lengthened run logs an epoch twice
            row |= {name: entry[logged] for logged, name in columns.items() if logged in entry}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(columns.values()))
    return table.rename_axis("epoch").sort_index().reset_index()


def predict_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> list[dict[str, object]]:
    """Return the `text`, the model's `label`, its `score` and `p_<label>` for each text, one text at a time."""
    from transformers import TextClassificationPipeline  # takes seconds; evaluation needs none of it

    classify = TextClassificationPipeline(model=model.eval(), tokenizer=tokenizer, device=model.device)
    examples = []
    for text, labelled in zip(texts, classify(list(texts), top_k=None, truncation=True), strict=True):
        probabilities = {f"p_{found['label']}": found["score"] for found in labelled}  # the most likely first
        examples.append({"text": text, **labelled[0], **probabilities})
    return examples


def write_predictions(
    output: PredictionOutput, texts: list[str], labels: tuple[str, ...], path: str | Path
) -> pd.DataFrame:
    """Write `text`, `gold`, `label` and `p_<label>` for each text, in order, as CSV; return the table.

    Every text is quoted: pandas would not quote a bare CR, which splits the row.
    """
    probabilities = softmax(output.predictions.astype(np.float64), axis=-1)  # (n_texts, n_labels)
    names = np.array(labels)
    columns = {"text": texts, "gold": names[output.label_ids], "label": names[probabilities.argmax(-1)]}
    table = pd.DataFrame(columns | dict(zip((f"p_{label}" for label in labels), probabilities.T, strict=True)))
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    return table


def write_seeds(output_dir: str | Path, seeds: list[int]) -> dict:
    """Write seeds.json, and return it: `runs` by seed (metrics.json and `folder`), `mean` and `std` by split and score.

    `std` divides by n - 1, and is null for one run.
    """
    metrics = {seed: json.loads(Path(output_dir, f"seed-{seed}", "metrics.json").read_bytes()) for seed in seeds}
    summary = {"runs": {seed: {"folder": f"seed-{seed}"} | metrics[seed] for seed in seeds}, "mean": {}, "std": {}}
    for split in [split for split in ("valid", "test") if split in metrics[seeds[0]]]:
        table = pd.DataFrame([metrics[seed][split] for seed in seeds]).filter(regex="^(?!n_)")
        summary["mean"][split] = table.mean().to_dict()
        summary["std"][split] = table.std().round(12).to_dict() if len(table) > 1 else dict.fromkeys(table)
    write_json(summary, Path(output_dir, "seeds.json"))
    return summary
