"""Scores worked by hand, and against scikit-learn where hands tire; the tables and files that a run leaves."""

import csv

import evaluate
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from smsa.data.labels import LABELS
from smsa.training.metrics import (
    MACRO_SCORES,
    SentimentMetric,
    compute_metrics,
    history_table,
    label_table,
    score_label_ids,
    write_predictions,
    write_submission,
)


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


def epoch(number, split, f1, **more):
    return {"epoch": number, **{f"{split}_{score}": f1 for score in MACRO_SCORES}, **more}


HISTORY = [
    epoch(1.0, "train", 0.5, learning_rate=1e-5),
    epoch(1.0, "eval", 0.6),
    epoch(2.0, "train", 0.7, learning_rate=9e-6),
    epoch(3.0, "train", 0.8, learning_rate=8.1e-6),
    epoch(3.0, "eval", 0.55),
    {"epoch": 3.0, "train_runtime": 5.0, "train_loss": 0.1},
]


def test_history_has_a_row_an_epoch_and_gaps_where_valid_was_not_scored():
    table = history_table(HISTORY)
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["learning_rate"].tolist() == [1e-5, 9e-6, 8.1e-6]
    assert table["train_f1"].tolist() == [0.5, 0.7, 0.8]
    assert table["valid_f1"].isna().tolist() == [False, True, False]
    assert table["valid_loss"].dropna().tolist() == [0.6, 0.55]


def test_an_epoch_that_came_twice_has_the_scores_of_its_end():
    """As in a run of 1.5 epochs that was lengthened to 2; also where the later score is not a number."""
    halfway = [epoch(0.5, "train", 0.4, learning_rate=1e-5), epoch(0.5, "eval", 0.3)]
    pd.testing.assert_frame_equal(history_table(halfway + HISTORY), history_table(HISTORY))
    assert history_table([*halfway, epoch(1.0, "train", float("nan"))])["train_loss"].isna().all()


def make_output(logits, label_ids) -> PredictionOutput:
    return PredictionOutput(np.asarray(logits, dtype=np.float32), np.asarray(label_ids), {})


def test_predictions_keep_hostile_texts_to_the_letter_with_probabilities(tmp_path):
    texts = ["NA", "null", '"', "a,b", "a\nb", "a\r\nb", "a\rb", "\r", "=1+1", "\u2028", "👍"]
    logits = np.log([[0.7, 0.2, 0.1], *[[0.1, 0.2, 0.7]] * (len(texts) - 1)])
    write_predictions(make_output(logits, [0, 1, *[2] * 9]), texts, LABELS, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "gold", "label", "p_positive", "p_neutral", "p_negative"]
    assert [row["text"] for row in rows] == texts
    assert [(row["gold"], row["label"]) for row in rows[:3]] == [
        ("positive", "positive"), ("neutral", "negative"), ("negative", "negative"),
    ]  # fmt: skip
    assert [[float(row[f"p_{label}"]) for label in LABELS] for row in rows] == pytest.approx(np.exp(logits), abs=1e-6)


def test_submission_is_the_benchmarks_format(tmp_path):
    write_submission(make_output([[0, 1, 0], [1, 0, 0]], [0, 0]), LABELS, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "index,label\n0,neutral\n1,positive\n"


def test_the_table_of_a_split_is_in_per_cent():
    scores = score_label_ids([0, 0, 1, 2], [0, 1, 1, 2]) | {"loss": 0.5}
    _, *lines = label_table(scores, LABELS).splitlines()
    assert lines[0].split() == ["positive", "50.00", "100.00", "66.67", "1"]
    assert lines[3].split() == ["macro", "83.33", "83.33", "77.78", "4"]
    assert lines[4] == "accuracy 75.00, loss 0.5000"
