"""Logits and gold labels -> named numbers, and the tables and files that a run leaves of them."""

import csv
import json
import math
import tempfile
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict, Features, Value
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import PredictionOutput

from smsa.data.datasets import count_tokens, sort_by_length
from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.files import write_json
from smsa.models.loading import label_names

# The reference's names for the macro scores, in the order in which it prints them.
REFERENCE_NAMES = {"accuracy": "ACC", "f1": "F1", "recall": "REC", "precision": "PRE"}
MACRO_SCORES = ("loss", *REFERENCE_NAMES)
# Columns of history.csv, by what Trainer's log calls them.
HISTORY = {"learning_rate": "learning_rate"}
HISTORY |= {f"train_{score}": f"train_{score}" for score in MACRO_SCORES}
HISTORY |= {f"eval_{score}": f"valid_{score}" for score in MACRO_SCORES}


class SentimentMetric(evaluate.Metric):
    """Accuracy and macro scores over a fixed set of labels, and the scores of each label.

    The labels are fixed because scikit-learn would else average over those that happen to occur.

    Args:
        labels: label names in the order of their ids.

    Reference: Wilie et al. 2020, IndoNLU, https://arxiv.org/abs/2009.05387
    """

    def __init__(self, labels: tuple[str, ...] = LABELS, **kwargs):
        self.labels = tuple(labels)
        # It makes a folder although nothing goes there, by default below a home that may be read-only.
        super().__init__(keep_in_memory=True, cache_dir=tempfile.gettempdir(), **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, macro F1, recall and precision, and the same for each label.",
            citation="Wilie et al. 2020, IndoNLU, https://arxiv.org/abs/2009.05387",
            inputs_description="predictions and references: label ids.",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return score_label_ids(predictions, references, self.labels)


def score_label_ids(predictions, references, labels: tuple[str, ...] = LABELS, n_texts=None) -> dict[str, float]:
    """Score predicted label ids against gold ones.

    Args:
        predictions, references: label ids of shape (n_pairs,).
        labels: label names in the order of their ids.
        n_texts: how many texts have each pair, shape (n_pairs,); one if None.

    Returns:
        `accuracy`; macro `f1`, `recall`, `precision`; `f1_<label>`, `recall_<label>`, `precision_<label>` for each
        label, in [0, 1]; and `n_<label>`, how many texts carry it. A score that would divide by zero is 0: a label that
        neither side contains counts as 0 in the macro scores.
    """
    per_label = precision_recall_fscore_support(
        references, predictions, labels=range(len(labels)), average=None, zero_division=0, sample_weight=n_texts
    )
    precision, recall, f1, n_gold = per_label  # each (n_labels,)
    scores = {
        "accuracy": accuracy_score(references, predictions, sample_weight=n_texts),
        "f1": f1.mean(),
        "recall": recall.mean(),
        "precision": precision.mean(),
    }
    for i, label in enumerate(labels):
        scores |= {f"f1_{label}": f1[i], f"recall_{label}": recall[i], f"precision_{label}": precision[i]}
    return {name: float(score) for name, score in scores.items()} | {
        f"n_{label}": int(n) for label, n in zip(labels, n_gold, strict=True)
    }


def compute_metrics(prediction: EvalPrediction, labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    """Score logits against gold labels.

    Macro F1 is the headline: SmSA is uneven (58 % positive, 10 % neutral in train), and IndoNLU reports it.

    Args:
        prediction: `predictions` are logits of shape (n_texts, n_labels), columns in the order of `labels`;
            `label_ids` are integers of shape (n_texts,).
        labels: label names in the order of their ids.

    Returns:
        `loss`, the mean cross entropy in nats, exact for any number of ranks, as Trainer's own is not; and what
        `score_label_ids` returns, for the label of the highest logit.

    Raises:
        ValueError: if there is not exactly one column of logits per label.
    """
    logits = np.asarray(prediction.predictions)
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise UserError(f"logits of shape {logits.shape} do not have one column for each of {', '.join(labels)}.")
    losses = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(logits)), prediction.label_ids]
    return {"loss": float(losses.mean()), **score_label_ids(logits.argmax(-1), prediction.label_ids, labels)}


def epoch_number(epoch: float) -> int:
    """Return the number, from 1, of the epoch that ends at or after `epoch`, Trainer's count of epochs done."""
    return math.ceil(epoch)


def predict_splits(trainer: Trainer, splits: DatasetDict) -> dict[str, PredictionOutput]:
    """Return what `trainer.predict` does for valid and, where there is one, test, rows in the order of the split.

    Every rank must call it. Texts are predicted by length, which takes half the padding.
    """
    outputs = {}
    for split in [split for split in ("valid", "test") if split in splits]:
        output = trainer.predict(sort_by_length(splits[split]), metric_key_prefix=split)
        places = np.argsort(np.argsort(-count_tokens(splits[split]), stable=True))  # where each text came
        outputs[split] = output._replace(predictions=output.predictions[places], label_ids=output.label_ids[places])
    return outputs


def collect_metrics(trainer: Trainer, outputs: dict[str, PredictionOutput], labels: tuple[str, ...]) -> dict:
    """Return the `epoch` that was kept, the scores of `train`, made while it trained, and those of `outputs`.

    Of each split, scores without its prefix: macro scores first, then those of each label.
    """
    state, of_labels = trainer.state, ("f1", "recall", "precision", "n")
    names = [*MACRO_SCORES, *(f"{score}_{label}" for label in labels for score in of_labels)]
    kept_step = trainer.args.load_best_model_at_end and state.best_global_step or state.global_step
    trained = [entry for entry in state.log_history if "train_f1" in entry]
    kept = next((entry for entry in trained if entry["step"] == kept_step), trained[-1])
    scores = {"train": kept} | {split: output.metrics for split, output in outputs.items()}
    return {"epoch": epoch_number(kept["epoch"])} | {
        split: {name: found[f"{split}_{name}"] for name in names} for split, found in scores.items()
    }


def history_table(log_history: list[dict[str, float]], columns: dict[str, str] = HISTORY) -> pd.DataFrame:
    """Return one row an epoch: `epoch`, and what the log has under the keys of `columns`, named by their values."""
    # the entry of the end of a run has a train_loss of another meaning
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" not in entry:
            row = rows.setdefault(epoch_number(entry["epoch"]), {})  # where a run was lengthened, one comes twice
            row |= {name: entry[logged] for logged, name in columns.items() if logged in entry}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(columns.values()))
    return table.rename_axis("epoch").sort_index().reset_index()


def predict_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> list[dict[str, object]]:
    """Return the `text`, the model's `label`, its `score` and `p_<label>` for each text, one text at a time."""
    labels, examples = label_names(model.config.id2label), []
    model.eval()
    for text in texts:
        with torch.inference_mode():
            logits = model(**tokenizer(text, truncation=True, return_tensors="pt").to(model.device)).logits[0]
        shares = logits.double().softmax(-1).tolist()
        label, score = labels[np.argmax(shares)], max(shares)
        named = {f"p_{name}": share for name, share in zip(labels, shares, strict=True)}
        examples.append({"text": text, "label": label, "score": score, **named})
    return examples


def write_predictions(output: PredictionOutput, texts: list[str], labels: tuple[str, ...], path: str | Path) -> None:
    """Write `text`, `gold`, `label` and `p_<label>` for each text, in order, as CSV.

    Every text is quoted: pandas would leave a bare CR open, which splits the row.
    """
    probabilities = softmax(output.predictions.astype(np.float64), axis=-1)  # (n_texts, n_labels)
    names = np.array(labels)
    table = {"text": texts, "gold": names[output.label_ids], "label": names[probabilities.argmax(-1)]}
    table |= {f"p_{label}": probabilities[:, i] for i, label in enumerate(labels)}
    pd.DataFrame(table).to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def write_submission(output: PredictionOutput, labels: tuple[str, ...], path: str | Path) -> None:
    """Write the benchmark's submission file: `index,label`, index from 0."""
    table = pd.DataFrame({"label": np.array(labels)[output.predictions.argmax(-1)]})
    table.rename_axis("index").to_csv(path)


def write_seeds(output_dir: str | Path, seeds: list[int]) -> dict:
    """Write seeds.json, and return what it holds.

    Returns:
        `runs` by seed (what metrics.json of each says, with its `folder`); `mean` and `std` by split and score. `std`
        divides by n - 1, and is null for one run.
    """
    runs = {seed: {"folder": f"seed-{seed}"} for seed in seeds}
    for run in runs.values():
        run |= json.loads(Path(output_dir, run["folder"], "metrics.json").read_bytes())
    summary = {"runs": runs, "mean": {}, "std": {}}
    for split in ("valid", "test"):
        table = pd.DataFrame([run[split] for run in runs.values() if split in run])
        if len(table):
            table = table[[name for name in table if not name.startswith("n_")]]
            summary["mean"][split] = table.mean().to_dict()
            summary["std"][split] = table.std().round(12).to_dict() if len(table) > 1 else dict.fromkeys(table)
    write_json(summary, Path(output_dir, "seeds.json"))
    return summary


def seeds_table(summary: dict) -> str:
    """Return macro F1, accuracy and F1 of each label on valid, by seed, with mean and standard deviation, as text."""
    rows = {seed: run["valid"] for seed, run in summary["runs"].items()}
    if len(rows) > 1:
        rows |= {"mean": summary["mean"]["valid"], "std": summary["std"]["valid"]}
    of_labels = [score for score in summary["mean"]["valid"] if score.startswith("f1_")]
    table = 100 * pd.DataFrame.from_dict(rows, orient="index")[["f1", "accuracy", *of_labels]]
    titles = {"f1": "macro F1"} | {score: score.removeprefix("f1_") for score in of_labels}
    return table.rename(columns=titles).rename_axis(columns="seed").to_string(float_format="{:.2f}".format)
