"""Scores against scikit-learn; the tables and files that a run leaves."""

import csv
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from smsa import LABELS, SentimentMetric
from smsa.training import metrics
from smsa.training.metrics import MACRO_SCORES, history_table, score_label_ids


@given(pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_scores_are_scikit_learns_over_all_three_labels_also_those_that_are_absent(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    scores = score_label_ids(predicted, gold)
    expected = precision_recall_fscore_support(gold, predicted, labels=[0, 1, 2], zero_division=0)
    for name, by_label in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [scores[f"{name}_{label}"] for label in LABELS] == by_label.tolist()
        assert scores[name] == by_label.mean()
    assert scores["accuracy"] == accuracy_score(gold, predicted)
    assert [scores[f"n_{label}"] for label in LABELS] == [gold.count(i) for i in range(3)]


def test_the_metric_works_without_a_home_to_write_in(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "home")  # where `evaluate` makes a folder
    ids = {"predictions": [0, 1, 2, 0], "references": [0, 1, 1, 2]}
    assert SentimentMetric().compute(**ids) == score_label_ids(**ids)
    assert not (tmp_path / "home").exists()


def test_columns_that_are_not_the_labels_are_refused():
    with pytest.raises(ValueError, match="one column for each of positive, neutral, negative"):
        metrics.compute_metrics(EvalPrediction(np.zeros((4, 2)), np.zeros(4, dtype=int)))


def epoch(number, split, f1, **more):
    return {"epoch": number, **{f"{split}_{score}": f1 for score in MACRO_SCORES}, **more}


def test_history_has_a_row_an_epoch_with_the_scores_of_its_end_and_gaps_where_valid_was_not_scored():
    """The first epoch comes twice, as in a run of half an epoch that was lengthened."""
    halfway = [epoch(0.5, "train", 0.4, learning_rate=1e-5), epoch(0.5, "eval", 0.3)]
    first = [epoch(1.0, "train", 0.5, learning_rate=1e-5), epoch(1.0, "eval", 0.6)]
    second, end = [epoch(2.0, "train", 0.7, learning_rate=9e-6)], [{"epoch": 2.0, "train_runtime": 5, "train_loss": 1}]
    table = history_table([*halfway, *first, *second, *end])
    assert table[["epoch", "learning_rate", "train_f1"]].values.tolist() == [[1, 1e-5, 0.5], [2, 9e-6, 0.7]]
    assert table["train_loss"].tolist() == [0.5, 0.7]
    assert table["valid_f1"].tolist() == pytest.approx([0.6, np.nan], nan_ok=True)
    assert history_table([*halfway, epoch(1.0, "train", float("nan"))])["train_loss"].isna().all()


def test_metrics_are_of_the_epoch_within_which_the_kept_step_lies():
    history = [epoch(n, "train", n / 10, step=5 * n) for n in (1, 2)]
    state = SimpleNamespace(best_global_step=4, global_step=10, log_history=history)
    trainer = SimpleNamespace(args=SimpleNamespace(load_best_model_at_end=True), state=state)
    assert metrics.collect_metrics(trainer, {}, ()) == {"epoch": 1, "train": dict.fromkeys(MACRO_SCORES, 0.1)}


def test_predictions_keep_hostile_texts_to_the_letter(tmp_path):
    """Their labels and probabilities are looked at in a whole run, in test_finetune.py."""
    texts = ["NA", "null", '"', "a,b", "a\nb", "a\r\nb", "a\rb", "\r", "=1+1", "\u2028", "👍"]
    output = PredictionOutput(np.eye(len(texts), 3), np.zeros(len(texts), dtype=int), {})
    metrics.write_predictions(output, texts, LABELS, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts
