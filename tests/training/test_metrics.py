"""Scores worked by hand, and against scikit-learn where hands tire."""

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from smsa.data.labels import LABELS
from smsa.training.metrics import SentimentMetric, compute_metrics, score_label_ids


def logits_for(label_ids):
    return np.eye(3)[label_ids] * 5.0


def test_scores_worked_by_hand():
    # gold 0 0 0 1 2 2 against 0 0 1 1 2 0: positive P 2/3 R 2/3, neutral P 1/2 R 1, negative P 1 R 1/2
    prediction = EvalPrediction(logits_for([0, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 2, 2]))
    scores = compute_metrics(prediction)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["precision"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores["recall"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert [scores[f"f1_{label}"] for label in LABELS] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert scores["f1"] == pytest.approx(2 / 3)
    assert [scores[f"n_{label}"] for label in LABELS] == [3, 1, 2]


def test_absent_labels_one_row_and_all_wrong_count_as_zero():
    scores = score_label_ids([0, 0, 2], [0, 0, 2])
    assert (scores["f1_neutral"], scores["f1"]) == (0, pytest.approx(2 / 3))
    assert score_label_ids([1], [1])["f1"] == pytest.approx(1 / 3)
    assert score_label_ids([1, 2], [0, 0])["f1"] == 0


@given(pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_macro_f1_is_scikit_learns_over_all_three_labels(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    expected = f1_score(gold, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
    assert score_label_ids(predicted, gold)["f1"] == expected


def test_the_metric_works_offline_in_one_go_and_in_batches():
    whole = SentimentMetric().compute(predictions=[0, 1, 2, 0], references=[0, 1, 1, 2])
    batched = SentimentMetric()
    batched.add_batch(predictions=[0, 1], references=[0, 1])
    batched.add_batch(predictions=[2, 0], references=[1, 2])
    assert batched.compute() == whole == score_label_ids([0, 1, 2, 0], [0, 1, 1, 2])


def test_scores_need_no_home_to_write_in(tmp_path, monkeypatch):
    """`evaluate` makes a folder there, by default; a run would lose its first epoch to a home that is read-only."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "home")
    compute_metrics(EvalPrediction(logits_for([0, 1]), np.array([0, 1])))
    assert not (tmp_path / "home").exists()


def test_other_labels_name_their_scores():
    scores = SentimentMetric(("buruk", "baik")).compute(predictions=[0, 1], references=[0, 0])
    assert scores["f1_buruk"] == pytest.approx(2 / 3)
    assert scores["n_baik"] == 0


def test_columns_that_are_not_the_labels_are_refused():
    with pytest.raises(ValueError, match="one column for each of positive, neutral, negative"):
        compute_metrics(EvalPrediction(np.zeros((4, 2)), np.zeros(4, dtype=int)))
