"""Logits and gold labels -> named numbers: a local `evaluate.Metric` with scikit-learn inside, no download."""

import tempfile

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from transformers import EvalPrediction

from smsa.data.labels import LABELS
from smsa.errors import UserError

# The reference's names for the macro scores, in the order in which it prints them.
REFERENCE_NAMES = {"accuracy": "ACC", "f1": "F1", "recall": "REC", "precision": "PRE"}


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
